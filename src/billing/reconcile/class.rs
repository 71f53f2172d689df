//! What a difference is called. Pure: all that is known goes in, a name comes out.

use serde::{Deserialize, Serialize};

use crate::billing::ledger::Aggregation;

/// What is compared with what. Every level expects a difference of 0.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    sqlx::Type,
    utoipa::ToSchema,
)]
#[sqlx(type_name = "text")]
#[schema(as = ReconcileLevel)]
pub enum Level {
    /// The facts = what is sealed of them + what is still open.
    L1,
    /// What is sealed = what was delivered + what is on its way + what was refused.
    L2,
    /// What was delivered for a day = what Stripe counted for it.
    L3,
    /// What Stripe counted for a period = what the invoice's line says.
    L4,
    /// What invoices ask for = what was paid and credited.
    L5,
}

impl Level {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
            Self::L4 => "L4",
            Self::L5 => "L5",
        }
    }
}

/// Why two sides differ.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    sqlx::Type,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[schema(as = DifferenceClass)]
pub enum Class {
    /// On its way, and not for longer than two hours.
    Pending,
    /// We delivered it, or should have, and Stripe does not count it.
    MissingAtStripe,
    /// Stripe counts what we did not deliver.
    ExtraAtStripe,
    /// Stripe refused it, or nobody knows and it waits for a person.
    Rejected,
    /// It came late and is billed with a later period.
    CarriedForward,
    /// Somebody changed it at Stripe.
    ManualStripeEdit,
    /// A minor unit or two, from rounding line by line.
    Rounding,
    /// Our own books disagree with themselves.
    LedgerMismatch,
    /// Less than nothing is left to bill in a period. Stripe bills nothing then; the rest is owed to the customer.
    CreditDue,
    /// Stripe refused the questions about this tenant, so nothing is known of it.
    NotCompared,
    /// It came late, and was told for a time that no invoice covers: the subscription had ended.
    Unbilled,
    /// Less than nothing was left to bill, or nobody bills it; and that is credited, worth nothing, or decided by finance.
    Settled,
}

/// The classes that explain themselves, as SQL.
macro_rules! benign {
    () => {
        "('pending', 'carried_forward', 'rounding', 'settled')"
    };
}
pub(in crate::billing) use benign;

impl Class {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::MissingAtStripe => "missing_at_stripe",
            Self::ExtraAtStripe => "extra_at_stripe",
            Self::Rejected => "rejected",
            Self::CarriedForward => "carried_forward",
            Self::ManualStripeEdit => "manual_stripe_edit",
            Self::Rounding => "rounding",
            Self::LedgerMismatch => "ledger_mismatch",
            Self::CreditDue => "credit_due",
            Self::NotCompared => "not_compared",
            Self::Unbilled => "unbilled",
            Self::Settled => "settled",
        }
    }

    /// Whether it explains itself: a run with no other differences is green.
    pub const fn is_benign(self) -> bool {
        matches!(self, Self::Pending | Self::CarriedForward | Self::Rounding | Self::Settled)
    }
}

/// What we know of a meter on one day, of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DayAtHome {
    /// Delivered: the sum, or the last.
    pub delivered: Option<i64>,
    /// Delivered in the last two hours: Stripe counts with a delay.
    pub fresh: Signed,
    /// Whether anything was delivered in the last two hours.
    pub is_fresh: bool,
    /// Sent, and nobody knows whether it arrived.
    pub in_flight: Signed,
    pub is_in_flight: bool,
}

/// A sum by its signs: with a correction in it, what has not arrived yet may make a count too low or too high.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signed {
    pub more: i64,
    /// What takes away, as a number of 0 or more.
    pub less: i64,
}

impl Signed {
    /// Whatever the difference, it is explained.
    pub const ANY: Self = Self { more: i64::MAX, less: i64::MAX };

    pub fn sum(self) -> i64 {
        self.more.saturating_sub(self.less)
    }

    fn and(self, other: Self) -> Self {
        Self { more: self.more.saturating_add(other.more), less: self.less.saturating_add(other.less) }
    }
}

/// The name of a difference between deliveries of a day and what Stripe counted for it (L3).
pub fn of_day(aggregation: Aggregation, home: &DayAtHome, theirs: Option<i64>) -> Option<Class> {
    let (ours, counted) = (home.delivered.unwrap_or(0), theirs.unwrap_or(0));
    let more = counted - ours;
    match aggregation {
        _ if more == 0 => None,
        Aggregation::Sum if more < 0 => {
            let explained = -more <= home.fresh.more.saturating_add(home.in_flight.less);
            Some(if explained { Class::Pending } else { Class::MissingAtStripe })
        }
        Aggregation::Sum => {
            let explained = more <= home.in_flight.more.saturating_add(home.fresh.less);
            Some(if explained { Class::Pending } else { Class::ExtraAtStripe })
        }
        Aggregation::Last if home.is_fresh || home.is_in_flight => Some(Class::Pending),
        Aggregation::Last if theirs.is_none() => Some(Class::MissingAtStripe),
        Aggregation::Last if home.delivered.is_none() => Some(Class::ExtraAtStripe),
        Aggregation::Last => Some(if more < 0 { Class::MissingAtStripe } else { Class::ExtraAtStripe }),
    }
}

/// What we know of a meter in an invoice's period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeriodAtHome {
    /// Sealed for windows of the period, without what was voided.
    pub sealed: i64,
    /// Of it, what came too late and was told for a later period.
    pub carried_out: i64,
    /// Of earlier periods, what was told for this one.
    pub carried_in: i64,
    /// Of what this invoice should hold: not delivered yet, and not for longer than two hours.
    pub young: Signed,
    /// Refused, or waiting for a person.
    pub refused: Signed,
}

impl PeriodAtHome {
    /// What is left of the period with all that was carried. Below 0, that much is owed to the customer.
    pub fn net(&self) -> i64 {
        self.sealed - self.carried_out + self.carried_in
    }

    /// What the invoice should say. Stripe bills no negative use.
    pub fn billable(&self) -> i64 {
        self.net().max(0)
    }
}

/// What Stripe says of the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeriodAtStripe {
    /// Its own count for the period.
    pub counted: i64,
    /// What the lines of the invoice say.
    pub invoiced: i64,
    /// A draft that is young is still brought up to date by Stripe.
    pub settling: bool,
    /// Nothing is owed for what is less than nothing: see [`is_credited`].
    pub credited: bool,
}

/// The name of a difference between what was used in a period and what its invoice says (L4).
pub fn of_period(home: &PeriodAtHome, stripe: &PeriodAtStripe) -> Option<Class> {
    let (billable, counted) = (home.billable(), stripe.counted.max(0));
    if stripe.invoiced == billable {
        if home.net() < 0 {
            return Some(if stripe.credited { Class::Settled } else { Class::CreditDue });
        }
        let carried = home.carried_in != 0 || home.carried_out != 0;
        return carried.then_some(Class::CarriedForward);
    }
    if stripe.invoiced != counted {
        return Some(if stripe.settling { Class::Pending } else { Class::ManualStripeEdit });
    }
    let with_refused = home.young.and(home.refused);
    Some(match billable - counted {
        short if short > 0 && short <= home.young.more => Class::Pending,
        short if short > 0 && short <= with_refused.more => Class::Rejected,
        short if short > 0 => Class::MissingAtStripe,
        over if -over <= home.young.less => Class::Pending,
        over if -over <= with_refused.less => Class::Rejected,
        _ => Class::ExtraAtStripe,
    })
}

/// What units that are less than nothing are worth, in minor units without tax: each its full price, and together no more than
/// was `charged` for the periods that they were taken from, if those are known. None when nobody knows a unit's price.
pub fn owed_for(units: i64, unit_minor: Option<i64>, charged: Option<i64>) -> Option<i64> {
    let most = charged.unwrap_or(i64::MAX);
    match (unit_minor, charged) {
        (_, Some(0)) => Some(0),
        (Some(price), _) => Some(units.saturating_mul(price).min(most)),
        (None, _) => None,
    }
}

/// Whether credit notes cover what is owed on an invoice, over all of its meters: with the tax that the invoice has.
pub fn is_credited(credited: i64, owed: &[Option<i64>], total: i64, tax: i64) -> bool {
    let Some(owed) = owed.iter().copied().try_fold(0i64, |sum, one| Some(sum.saturating_add(one?))) else {
        return false;
    };
    owed == 0 || credited > 0 && credited.saturating_add(ROUNDING) >= with_tax(owed, total, tax)
}

/// An amount with the tax that an invoice has on the rest, rounded.
pub fn with_tax(amount: i64, total: i64, tax: i64) -> i64 {
    let net = i128::from(total) - i128::from(tax);
    if net <= 0 || tax <= 0 {
        return amount;
    }
    let tax = (i128::from(amount) * i128::from(tax) + net / 2) / net;
    amount.saturating_add(i64::try_from(tax).unwrap_or(i64::MAX))
}

/// Minor units that rounding line by line may come to.
const ROUNDING: i64 = 2;

/// An invoice as we have it and as Stripe has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvoiceSides {
    /// What we have written down: total and paid. None when we never heard of it.
    pub ours: Option<(i64, i64)>,
    /// Total, paid and credited at Stripe. None when it is not there.
    pub theirs: Option<(i64, i64, i64)>,
    /// Whether Stripe says that it is settled.
    pub paid: bool,
    /// Lines and tax together.
    pub lines: i64,
    /// Whether it changed within the last two hours: its webhook may be on the way.
    pub fresh: bool,
}

/// The name of a difference between an invoice's two sides, or between what it asks and what was paid (L5).
pub fn of_invoice(sides: &InvoiceSides) -> Option<Class> {
    let unless_fresh = |class| Some(if sides.fresh { Class::Pending } else { class });
    let (Some((total, paid)), Some((at_total, at_paid, credited))) = (sides.ours, sides.theirs) else {
        return match (sides.ours, sides.theirs) {
            (None, None) => None,
            (None, Some(_)) => unless_fresh(Class::ExtraAtStripe),
            (Some(_), _) => unless_fresh(Class::MissingAtStripe),
        };
    };
    if (total, paid) != (at_total, at_paid) {
        return unless_fresh(Class::ManualStripeEdit);
    }
    // A credit note lowers what is due before payment, and pays back after it: both are right.
    let due = [at_total - credited, at_total];
    let short = due.iter().map(|due| due - at_paid).min_by_key(|short| short.abs()).unwrap_or(0);
    let wrong = if sides.paid { short } else { 0 };
    // Discounts make the total less than its lines; nothing of ours makes it more.
    let over = (at_total - sides.lines).max(0);
    match wrong.abs().max(over) {
        0 => None,
        few if few <= ROUNDING => Some(Class::Rounding),
        _ => Some(Class::ManualStripeEdit),
    }
}

/// Which of some batches Stripe does not have, from what it counted for their minute. `sure` is what it must have, `open` are
/// the batches in question. None when the numbers allow more than one answer, or none.
pub fn absent(aggregation: Aggregation, sure: i64, open: &[i64], counted: Option<i64>) -> Option<Vec<usize>> {
    /// More in one minute is not looked at: the number of answers doubles with each.
    const MOST: usize = 8;
    if open.is_empty() || open.len() > MOST {
        return None;
    }
    if aggregation == Aggregation::Last {
        // Only the newest shows; an answer of 0 may mean that there is nothing.
        return match (open, counted) {
            ([_], None) => Some(vec![0]),
            ([value], Some(counted)) if *value == counted && counted != 0 => Some(Vec::new()),
            ([value], Some(0)) if *value != 0 && sure == 0 => Some(vec![0]),
            _ => None,
        };
    }
    let counted = counted.unwrap_or(0);
    let mut answers = (0u32..1 << open.len()).filter(|there| {
        let sum: i64 = (0..open.len()).filter(|at| there >> at & 1 == 1).map(|at| open[at]).sum();
        sure + sum == counted
    });
    match (answers.next(), answers.next()) {
        (Some(there), None) => Some((0..open.len()).filter(|at| there >> at & 1 == 0).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(delivered: i64) -> DayAtHome {
        DayAtHome { delivered: Some(delivered), ..DayAtHome::default() }
    }

    #[test]
    fn a_day_of_a_sum() {
        let of = |home: &DayAtHome, theirs| of_day(Aggregation::Sum, home, theirs);
        assert_eq!(of(&day(5), Some(5)), None);
        assert_eq!(of(&DayAtHome::default(), None), None);
        assert_eq!(of(&day(5), None), Some(Class::MissingAtStripe));
        assert_eq!(of(&day(5), Some(7)), Some(Class::ExtraAtStripe));
        let more = |more| Signed { more, less: 0 };
        let less = |less| Signed { more: 0, less };
        let fresh = DayAtHome { fresh: more(2), is_fresh: true, ..day(5) };
        assert_eq!(of(&fresh, Some(3)), Some(Class::Pending));
        assert_eq!(of(&fresh, Some(2)), Some(Class::MissingAtStripe), "more is missing than was sent lately");
        let unknown = DayAtHome { in_flight: more(2), is_in_flight: true, ..day(5) };
        assert_eq!(of(&unknown, Some(7)), Some(Class::Pending));
        assert_eq!(of(&unknown, Some(8)), Some(Class::ExtraAtStripe));
        // A correction that takes away, and that Stripe does not count yet, or already.
        let taken = DayAtHome { fresh: less(3), is_fresh: true, ..day(2) };
        assert_eq!(of(&taken, Some(5)), Some(Class::Pending));
        assert_eq!(of(&taken, Some(6)), Some(Class::ExtraAtStripe));
        let taking = DayAtHome { in_flight: less(3), is_in_flight: true, ..day(5) };
        assert_eq!(of(&taking, Some(2)), Some(Class::Pending));
        assert_eq!(of(&taking, Some(1)), Some(Class::MissingAtStripe));
        // A correction beside new use hides none of it.
        let both = DayAtHome { fresh: Signed { more: 10, less: 10 }, is_fresh: true, ..day(10) };
        assert_eq!(of(&both, None), Some(Class::Pending));
    }

    #[test]
    fn a_day_of_a_last_value() {
        let of = |home: &DayAtHome, theirs| of_day(Aggregation::Last, home, theirs);
        assert_eq!(of(&day(5), Some(5)), None);
        assert_eq!(of(&day(0), None), None, "nothing and zero are one");
        assert_eq!(of(&day(5), None), Some(Class::MissingAtStripe));
        assert_eq!(of(&day(5), Some(4)), Some(Class::MissingAtStripe));
        assert_eq!(of(&day(5), Some(6)), Some(Class::ExtraAtStripe));
        assert_eq!(of(&DayAtHome { is_fresh: true, ..day(5) }, Some(4)), Some(Class::Pending));
    }

    #[test]
    fn a_period_and_its_invoice() {
        let stripe =
            |counted, invoiced| PeriodAtStripe { counted, invoiced, settling: false, credited: false };
        let home = PeriodAtHome { sealed: 10, ..PeriodAtHome::default() };
        assert_eq!(of_period(&home, &stripe(10, 10)), None);
        assert_eq!(of_period(&home, &stripe(10, 12)), Some(Class::ManualStripeEdit));
        assert_eq!(
            of_period(&home, &PeriodAtStripe { settling: true, ..stripe(10, 8) }),
            Some(Class::Pending)
        );
        assert_eq!(of_period(&home, &stripe(7, 7)), Some(Class::MissingAtStripe));
        assert_eq!(of_period(&home, &stripe(12, 12)), Some(Class::ExtraAtStripe));
        let (more, less) = (Signed { more: 3, less: 0 }, Signed { more: 0, less: 3 });
        assert_eq!(of_period(&PeriodAtHome { young: more, ..home }, &stripe(7, 7)), Some(Class::Pending));
        assert_eq!(of_period(&PeriodAtHome { refused: more, ..home }, &stripe(7, 7)), Some(Class::Rejected));
        // What takes away and is not there yet is no surplus of Stripe's.
        assert_eq!(of_period(&PeriodAtHome { young: less, ..home }, &stripe(13, 13)), Some(Class::Pending));
        assert_eq!(
            of_period(&PeriodAtHome { refused: less, ..home }, &stripe(13, 13)),
            Some(Class::Rejected)
        );
        let any = PeriodAtHome { young: Signed::ANY, refused: more, ..home };
        assert_eq!(of_period(&any, &stripe(99, 99)), Some(Class::Pending));
        let late = PeriodAtHome { carried_out: 2, ..home };
        assert_eq!(of_period(&late, &stripe(8, 8)), Some(Class::CarriedForward));
        let next = PeriodAtHome { carried_in: 2, ..home };
        assert_eq!(of_period(&next, &stripe(12, 12)), Some(Class::CarriedForward));
    }

    /// Shown to fail: with what is left cut at 0 before it is looked at, the customer pays too much and nobody is told.
    #[test]
    fn less_than_nothing_is_owed_to_the_customer() {
        let stripe = PeriodAtStripe { counted: -8, invoiced: 0, settling: false, credited: false };
        let carried = PeriodAtHome { sealed: 4, carried_in: -12, ..PeriodAtHome::default() };
        assert_eq!((carried.net(), carried.billable()), (-8, 0));
        assert_eq!(of_period(&carried, &stripe), Some(Class::CreditDue));
        let negative = PeriodAtHome { sealed: -4, ..PeriodAtHome::default() };
        assert_eq!(of_period(&negative, &PeriodAtStripe { counted: -4, ..stripe }), Some(Class::CreditDue));
        assert!(!Class::CreditDue.is_benign() && !Class::NotCompared.is_benign());
        let given = PeriodAtStripe { credited: true, ..stripe };
        assert_eq!(of_period(&carried, &given), Some(Class::Settled));
        assert_eq!(of_period(&negative, &PeriodAtStripe { counted: -4, ..given }), Some(Class::Settled));
        assert!(Class::Settled.is_benign() && !Class::Unbilled.is_benign());
    }

    /// Guards against: with any credit note ending what is owed, one for a minor unit does.
    #[test]
    fn what_is_owed_ends_with_credit_notes_that_cover_it() {
        assert_eq!(owed_for(8, Some(2), None), Some(16));
        assert_eq!(owed_for(8, Some(2), Some(10)), Some(10), "no more than was charged");
        assert_eq!(owed_for(8, None, None), None);
        assert_eq!((owed_for(8, Some(2), Some(0)), owed_for(8, None, Some(0))), (Some(0), Some(0)));
        let covers = |credited, owed: &[Option<i64>]| is_credited(credited, owed, 0, 0);
        assert!(!covers(1, &[Some(16)]) && !covers(13, &[Some(16)]));
        assert!(covers(16, &[Some(16)]) && covers(14, &[Some(16)]), "but for rounding");
        assert!(!covers(16, &[Some(16), Some(16)]), "one note is not for two meters");
        assert!(covers(32, &[Some(16), Some(16)]) && covers(0, &[Some(0)]) && covers(0, &[]));
        assert!(!covers(0, &[Some(1)]), "nothing was credited");
        assert!(!covers(1_000, &[None]), "nobody knows what it is worth");
        assert_eq!(with_tax(100, 5831, 931), 119);
        assert_eq!((with_tax(100, 0, 0), with_tax(100, 931, 931)), (100, 100));
        assert!(!is_credited(100, &[Some(100)], 5831, 931) && is_credited(119, &[Some(100)], 5831, 931));
    }

    #[test]
    fn what_explains_itself_is_the_same_in_sql() {
        use Class::*;
        let all = [
            Pending,
            MissingAtStripe,
            ExtraAtStripe,
            Rejected,
            CarriedForward,
            ManualStripeEdit,
            Rounding,
            LedgerMismatch,
            CreditDue,
            NotCompared,
            Unbilled,
            Settled,
        ];
        for class in all {
            assert_eq!(benign!().contains(&format!("'{}'", class.as_str())), class.is_benign(), "{class:?}");
        }
    }

    #[test]
    fn an_invoice_and_its_payment() {
        let fine = InvoiceSides {
            ours: Some((100, 100)),
            theirs: Some((100, 100, 0)),
            paid: true,
            lines: 100,
            fresh: false,
        };
        assert_eq!(of_invoice(&fine), None);
        let credited = InvoiceSides { ours: Some((100, 60)), theirs: Some((100, 60, 40)), ..fine };
        assert_eq!(of_invoice(&credited), None, "credited before it was paid");
        assert_eq!(of_invoice(&InvoiceSides { theirs: Some((100, 100, 40)), ..fine }), None, "paid back");
        let cent = InvoiceSides { ours: Some((100, 99)), theirs: Some((100, 99, 0)), ..fine };
        assert_eq!(of_invoice(&cent), Some(Class::Rounding));
        assert_eq!(of_invoice(&InvoiceSides { lines: 98, ..fine }), Some(Class::Rounding));
        assert_eq!(of_invoice(&InvoiceSides { lines: 50, ..fine }), Some(Class::ManualStripeEdit));
        assert_eq!(of_invoice(&InvoiceSides { lines: 150, ..fine }), None, "a discount");
        let other = InvoiceSides { ours: Some((90, 90)), ..fine };
        assert_eq!(of_invoice(&other), Some(Class::ManualStripeEdit));
        assert_eq!(of_invoice(&InvoiceSides { fresh: true, ..other }), Some(Class::Pending));
        assert_eq!(of_invoice(&InvoiceSides { ours: None, ..fine }), Some(Class::ExtraAtStripe));
        assert_eq!(of_invoice(&InvoiceSides { theirs: None, ..fine }), Some(Class::MissingAtStripe));
        let open = InvoiceSides { ours: Some((100, 0)), theirs: Some((100, 0, 0)), paid: false, ..fine };
        assert_eq!(of_invoice(&open), None, "not paid yet is no difference");
    }

    /// Absence is said only when the numbers leave no other answer. Shown to fail: with the first answer taken.
    #[test]
    fn absence_is_proven_or_not_said() {
        let sum = |sure, open: &[i64], counted| absent(Aggregation::Sum, sure, open, counted);
        assert_eq!(sum(0, &[5], None), Some(vec![0]));
        assert_eq!(sum(0, &[5], Some(5)), Some(vec![]));
        assert_eq!(sum(3, &[5], Some(3)), Some(vec![0]));
        assert_eq!(sum(0, &[5, 7], Some(7)), Some(vec![0]));
        assert_eq!(sum(0, &[5, 5], Some(5)), None, "which of the two?");
        assert_eq!(sum(0, &[5], Some(4)), None, "neither there nor not");
        assert_eq!(sum(0, &[3, 2, 5], Some(5)), None, "3 + 2, or 5?");
        assert_eq!(sum(0, &[], Some(0)), None);
        let last = |sure, open: &[i64], counted| absent(Aggregation::Last, sure, open, counted);
        assert_eq!(last(0, &[5], None), Some(vec![0]));
        assert_eq!(last(0, &[5], Some(5)), Some(vec![]));
        assert_eq!(last(0, &[0], Some(0)), None);
        assert_eq!(last(0, &[5], Some(4)), None);
        assert_eq!(last(0, &[5, 6], Some(6)), None);
    }
}
