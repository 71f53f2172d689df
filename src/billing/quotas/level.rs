//! How a limit stands, and what is said about it. Pure.

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::Month;
use crate::control_plane::plans::{Entitlements, bytes_text};
use crate::kernel::{Error, QuotaState, codes};

/// The percentage from which people are told.
pub const SOFT: u8 = 80;
/// The percentage at which no more passes.
pub const HARD: u8 = 100;
/// What has no period is told of again once it fell below this percentage.
pub const FORGOTTEN: u8 = 70;

/// What a refused caller may do.
const RAISE: &str = "an owner can move the workspace to a larger plan, on its page /usage";

/// A limit of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Quota {
    RequestsPerMonth,
    StoredBytes,
    Seats,
}

impl Quota {
    /// The name of its entitlement.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestsPerMonth => "requests_per_month",
            Self::StoredBytes => "stored_bytes",
            Self::Seats => "seats",
        }
    }

    /// Whether the count begins anew each month.
    pub const fn is_monthly(self) -> bool {
        matches!(self, Self::RequestsPerMonth)
    }

    /// What the plan grants; none for no limit.
    pub fn limit(self, of: &Entitlements) -> Option<u64> {
        match self {
            Self::RequestsPerMonth => of.requests_per_month,
            Self::StoredBytes => of.stored_bytes,
            Self::Seats => Some(of.seats.into()),
        }
    }

    /// The period that holds this moment, as it is kept: the month, or for what has none a constant.
    pub fn period(self, now: DateTime<Utc>) -> NaiveDate {
        if self.is_monthly() { Month::of(now).first_day() } else { ALWAYS }
    }
}

/// The period of what has none.
pub const ALWAYS: NaiveDate = NaiveDate::from_ymd_opt(1970, 1, 1).expect("a day");

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Fine,
    /// At 80 percent or more: people are told.
    Soft,
    /// All of it is used.
    Hard,
}

/// How a limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Level {
    pub quota: Quota,
    pub used: u64,
    /// None: counted, without a limit.
    pub limit: Option<u64>,
    /// The first moment of the next period, for what has one.
    pub resets_at: Option<DateTime<Utc>>,
}

impl Level {
    /// A level of the period that holds `now`.
    pub fn at(quota: Quota, used: u64, limit: Option<u64>, now: DateTime<Utc>) -> Self {
        let resets_at = quota.is_monthly().then(|| Month::of(now).end());
        Self { quota, used, limit, resets_at }
    }

    pub fn stage(&self) -> Stage {
        let Some(limit) = self.limit else { return Stage::Fine };
        match u128::from(self.used) * 100 {
            used if used >= u128::from(limit) * u128::from(HARD) => Stage::Hard,
            used if used >= u128::from(limit) * u128::from(SOFT) => Stage::Soft,
            _ => Stage::Fine,
        }
    }

    /// Whole percent, rounded down, at most 999; none without a limit.
    pub fn percent(&self) -> Option<u64> {
        let limit = u128::from(self.limit?.max(1));
        u64::try_from((u128::from(self.used) * 100 / limit).min(999)).ok()
    }

    /// `100,000 of 100,000 requests of November 2026 are used`.
    pub fn text(&self) -> String {
        let of = |limit: Option<u64>, unit: fn(u64) -> String| {
            limit.map_or_else(String::new, |limit| format!(" of {}", unit(limit)))
        };
        match self.quota {
            Quota::RequestsPerMonth => {
                let month = self.resets_at.map_or_else(String::new, |end| {
                    format!(" of {}", Month::of(end - chrono::TimeDelta::seconds(1)).words())
                });
                format!("{}{} requests{month} are used", number(self.used), of(self.limit, number))
            }
            Quota::StoredBytes => {
                format!("{}{} of stored data are used", bytes_text(self.used), of(self.limit, bytes_text))
            }
            Quota::Seats => format!("{}{} seats are taken", number(self.used), of(self.limit, number)),
        }
    }

    /// What happens now, or soon. Empty while all is well.
    pub fn consequence(&self) -> &'static str {
        match (self.quota, self.stage()) {
            (_, Stage::Fine) => "",
            (Quota::RequestsPerMonth, Stage::Soft) => {
                "When all are used, requests with a key or a token are refused until the month ends."
            }
            (Quota::RequestsPerMonth, Stage::Hard) => {
                "Requests with a key or a token are refused until the month ends. These pages keep working."
            }
            (Quota::StoredBytes, Stage::Soft) => {
                "When all of it is used, nothing can be added or changed. Reading and deleting still work."
            }
            (Quota::StoredBytes, Stage::Hard) => {
                "Nothing can be added or changed until there is room again. Reading and deleting still work."
            }
            (Quota::Seats, Stage::Soft) => "When all are taken, nobody else can join.",
            (Quota::Seats, Stage::Hard) => "Nobody else can join until a seat is free.",
        }
    }

    fn state(&self) -> QuotaState {
        QuotaState {
            name: self.quota.as_str().to_owned(),
            limit: self.limit.unwrap_or(u64::MAX),
            used: self.used,
            resets_at: self.resets_at,
        }
    }

    /// The answer to a request that this limit refuses: which limit, how much is used, when it resets, how to raise it.
    pub fn refusal(&self, now: DateTime<Utc>) -> Error {
        let code = if self.quota.is_monthly() { &codes::QUOTA_EXCEEDED } else { &codes::PAYMENT_REQUIRED };
        let error = Error::new(code).quota(self.state());
        match self.resets_at {
            Some(end) => error
                .detail(format!(
                    "{}; the count starts again at {}",
                    self.text(),
                    end.to_rfc3339_opts(SecondsFormat::Secs, true)
                ))
                .hint(RAISE)
                .retry_after((end - now).to_std().unwrap_or_default()),
            None => error.detail(self.text()).hint(match self.quota {
                Quota::StoredBytes => {
                    "delete what you no longer need, or an owner can move the workspace to a larger plan, on its page /usage"
                }
                _ => RAISE,
            }),
        }
    }
}

/// `1,234,567`.
fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn eighty_and_a_hundred_percent_exactly() {
        let stage = |used, limit| Level::at(Quota::Seats, used, limit, now()).stage();
        for (used, limit, want) in [
            (79, Some(100), Stage::Fine),
            (80, Some(100), Stage::Soft),
            (99, Some(100), Stage::Soft),
            (100, Some(100), Stage::Hard),
            (101, Some(100), Stage::Hard),
            (3, Some(4), Stage::Fine),
            (4, Some(5), Stage::Soft),
            (0, Some(1), Stage::Fine),
            (1, Some(1), Stage::Hard),
            (u64::MAX, Some(u64::MAX), Stage::Hard),
            (u64::MAX, None, Stage::Fine),
        ] {
            assert_eq!(stage(used, limit), want, "{used} of {limit:?}");
        }
    }

    #[test]
    fn a_refusal_says_which_how_much_when_and_how() {
        let level = Level::at(Quota::RequestsPerMonth, 100_000, Some(100_000), now());
        let error = level.refusal(now());
        assert!(error.is(&codes::QUOTA_EXCEEDED));
        assert_eq!(
            error.public_detail(),
            Some(
                "100,000 of 100,000 requests of November 2026 are used; the count starts again at 2026-12-01T00:00:00Z"
            )
        );
        assert!(error.public_hint().unwrap().contains("/usage"));
        assert_eq!(error.retry_after_secs(), Some(9 * 86_400 + 12 * 3_600));
        let said = error.quota_state().unwrap();
        assert_eq!((said.name.as_str(), said.limit, said.used), ("requests_per_month", 100_000, 100_000));
        assert_eq!(said.resets_at, Some("2026-12-01T00:00:00Z".parse().unwrap()));

        let full = Level::at(Quota::StoredBytes, 3 << 29, Some(1 << 30), now()).refusal(now());
        assert!(full.is(&codes::PAYMENT_REQUIRED));
        assert_eq!(full.public_detail(), Some("1.5 GiB of 1 GiB of stored data are used"));
        assert_eq!((full.retry_after_secs(), full.quota_state().unwrap().resets_at), (None, None));
    }

    #[test]
    fn numbers_read_well() {
        for (count, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(count), text);
        }
    }
}
