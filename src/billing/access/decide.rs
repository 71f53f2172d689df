//! The rule. No I/O, no clock of its own: the same facts at the same moment give the same access, in whatever order the
//! facts became known.

use chrono::{DateTime, TimeDelta, Utc};

use super::Access;
use crate::billing::settings::AccessDays;

/// How long after its end a subscription's workspace can be read, to take the data along.
pub const EXPORT_DAYS: i64 = 30;

/// What is known of a tenant's money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether its plan costs something.
    pub paid_plan: bool,
    /// Since when there has been somebody who could pay: an account, and a person with a seat. None while there is nobody:
    /// then nothing is taken away for want of a subscription, and finance is told.
    pub payable_since: Option<DateTime<Utc>>,
    pub subscription: Option<Subscription>,
    /// When the first of the invoices that are still owed was due.
    pub owed_since: Option<DateTime<Utc>>,
}

/// Its subscription: the living one, or the last that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Stripe's word.
    pub status: String,
    pub period_start: DateTime<Utc>,
    pub trial_end: Option<DateTime<Utc>>,
    /// When it is to end, or was to.
    pub cancel_at: Option<DateTime<Utc>>,
    /// When somebody cancelled it: of one that ended with its period, long before it did.
    pub canceled_at: Option<DateTime<Utc>>,
    pub period_end: DateTime<Utc>,
}

impl Subscription {
    /// When one that has ended did.
    fn ended(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        self.cancel_at.filter(|at| *at <= now).or(self.canceled_at).unwrap_or(self.period_end)
    }
}

/// Whether we see clearly. While we do not, nobody is brought nearer to suspension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sky {
    /// Stripe has just answered about this very tenant.
    pub stripe: bool,
    /// No webhook waits for longer than fifteen minutes.
    pub inbox: bool,
    /// The last reconciliation found nothing of this tenant that does not explain itself.
    pub reconcile: bool,
}

impl Sky {
    pub const CLEAR: Self = Self { stripe: true, inbox: true, reconcile: true };

    pub const fn is_clear(self) -> bool {
        self.stripe && self.inbox && self.reconcile
    }
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub access: Access,
    /// Since when money is owed; none when none is. Names the episode: its effects happen once.
    pub unpaid_since: Option<DateTime<Utc>>,
    /// What would be decided under a clear sky, when that is nearer to suspension.
    pub held: Option<Access>,
}

/// Decides.
pub fn decide(
    facts: &Facts,
    now: DateTime<Utc>,
    current: Access,
    overridden: Option<(Access, DateTime<Utc>)>,
    days: &AccessDays,
    sky: Sky,
) -> Decision {
    let unpaid_since = unpaid_since(facts);
    // A person has looked and said so, with a reason: that counts for more than the sky.
    if let Some((access, until)) = overridden
        && now < until
    {
        return Decision { access, unpaid_since, held: None };
    }
    let wanted = wanted(facts, unpaid_since, now, days);
    if wanted.rank() > current.rank() && !sky.is_clear() {
        return Decision { access: current, unpaid_since, held: Some(wanted) };
    }
    Decision { access: wanted, unpaid_since, held: None }
}

/// The first moment of the unpaid time that lasts.
fn unpaid_since(facts: &Facts) -> Option<DateTime<Utc>> {
    // A plan that costs something, and nobody pays for it.
    let never_paid = facts.payable_since.filter(|_| facts.paid_plan);
    let Some(subscription) = &facts.subscription else { return never_paid };
    match subscription.status.as_str() {
        "active" | "trialing" | "canceled" => None,
        // The first payment never worked: it is as if there were no subscription.
        "incomplete" | "incomplete_expired" => never_paid,
        // A trial that ended without a way to pay.
        "paused" => Some(subscription.trial_end.unwrap_or(subscription.period_start)),
        // `past_due`, `unpaid`, and whatever Stripe will say one day.
        _ => Some(facts.owed_since.unwrap_or(subscription.period_start)),
    }
}

fn wanted(
    facts: &Facts,
    unpaid_since: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    days: &AccessDays,
) -> Access {
    match facts.subscription.as_ref().map(|one| (one, one.status.as_str())) {
        Some((_, "trialing")) => return Access::Trialing,
        Some((_, "unpaid")) => return Access::Suspended,
        // It has ended, and the workspace goes on with a plan that costs nothing.
        Some((_, "canceled")) if !facts.paid_plan => return Access::Active,
        Some((ended, "canceled")) => {
            let over = ended.ended(now) + TimeDelta::days(EXPORT_DAYS);
            return if now < over { Access::Canceled } else { Access::Suspended };
        }
        _ => {}
    }
    let Some(since) = unpaid_since else { return Access::Active };
    let past = |limit: u32| now >= since + TimeDelta::days(i64::from(limit));
    match () {
        () if past(days.suspended) => Access::Suspended,
        () if past(days.restricted) => Access::Restricted,
        () if past(days.grace) => Access::PastDue,
        () => Access::Grace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(day: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::days(day)
    }

    fn facts(status: Option<&str>) -> Facts {
        Facts {
            paid_plan: true,
            payable_since: Some(day(0)),
            subscription: status.map(|status| Subscription {
                status: status.to_owned(),
                period_start: day(0),
                period_end: day(30),
                trial_end: None,
                cancel_at: None,
                canceled_at: None,
            }),
            owed_since: None,
        }
    }

    fn at(facts: &Facts, now: i64) -> Access {
        decide(facts, day(now), Access::Active, None, &AccessDays::default(), Sky::CLEAR).access
    }

    #[test]
    fn access_follows_money_day_by_day() {
        let owed = Facts { owed_since: Some(day(3)), ..facts(Some("past_due")) };
        for (now, want) in [
            (3, Access::Grace),
            (9, Access::Grace),
            (10, Access::PastDue),
            (16, Access::PastDue),
            (17, Access::Restricted),
            (23, Access::Restricted),
            (24, Access::Suspended),
            (400, Access::Suspended),
        ] {
            assert_eq!(at(&owed, now), want, "day {now}");
        }
        assert_eq!(at(&facts(Some("active")), 400), Access::Active);
        assert_eq!(at(&facts(Some("trialing")), 400), Access::Trialing);
        assert_eq!(at(&facts(Some("unpaid")), 0), Access::Suspended);
        assert_eq!(at(&facts(None), 0), Access::Grace, "a paid plan that nobody pays for");
        assert_eq!(at(&Facts { paid_plan: false, ..facts(None) }, 400), Access::Active);
        assert_eq!(
            at(&Facts { payable_since: None, ..facts(None) }, 400),
            Access::Active,
            "nobody could pay"
        );
        assert_eq!(at(&facts(Some("a word of tomorrow")), 15), Access::Restricted);
    }

    #[test]
    fn a_subscription_that_ended_leaves_time_to_take_the_data_along() {
        let mut ended = facts(Some("canceled"));
        ended.subscription.as_mut().unwrap().canceled_at = Some(day(10));
        assert_eq!(at(&ended, 10), Access::Canceled);
        assert_eq!(at(&ended, 39), Access::Canceled);
        assert_eq!(at(&ended, 40), Access::Suspended);
        // Cancelled on the tenth day, for the end of the period.
        let mut later = ended.clone();
        later.subscription.as_mut().unwrap().cancel_at = Some(day(30));
        assert_eq!(at(&later, 59), Access::Canceled);
        assert_eq!(at(&later, 60), Access::Suspended);
        assert_eq!(at(&Facts { paid_plan: false, ..ended }, 40), Access::Active);
    }

    /// Shown to fail: `&& !sky.is_clear()` taken out.
    #[test]
    fn nobody_is_brought_nearer_to_suspension_while_we_do_not_see_clearly() {
        let clear = Sky::CLEAR;
        let skies = [
            Sky { stripe: false, ..clear },
            Sky { inbox: false, ..clear },
            Sky { reconcile: false, ..clear },
        ];
        let all = [
            Access::Trialing,
            Access::Active,
            Access::Grace,
            Access::PastDue,
            Access::Restricted,
            Access::Canceled,
            Access::Suspended,
        ];
        let owed = Facts { owed_since: Some(day(0)), ..facts(Some("past_due")) };
        for sky in skies {
            for current in all {
                for now in [0, 8, 15, 22] {
                    let decided = decide(&owed, day(now), current, None, &AccessDays::default(), sky);
                    assert!(decided.access.rank() <= current.rank(), "{current} at day {now} under {sky:?}");
                    let clear = decide(&owed, day(now), current, None, &AccessDays::default(), Sky::CLEAR);
                    assert_eq!(decided.held.unwrap_or(decided.access), clear.access);
                }
                // What is paid opens at once, whatever the sky.
                let paid =
                    decide(&facts(Some("active")), day(22), current, None, &AccessDays::default(), sky);
                assert_eq!((paid.access, paid.unpaid_since), (Access::Active, None));
            }
        }
    }

    #[test]
    fn finance_s_word_holds_until_it_runs_out() {
        let owed = Facts { owed_since: Some(day(0)), ..facts(Some("past_due")) };
        let word = Some((Access::Active, day(30)));
        let decided =
            |now| decide(&owed, day(now), Access::Active, word, &AccessDays::default(), Sky::CLEAR).access;
        assert_eq!(decided(29), Access::Active);
        assert_eq!(decided(30), Access::Suspended);
    }
}
