//! A calendar month in UTC: the period of monthly limits, whatever the subscription's own dates are.

use std::fmt;

use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};

/// Which month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(NaiveDate);

impl Month {
    pub fn of(at: DateTime<Utc>) -> Self {
        Self::holding(at.date_naive())
    }

    /// The month of a day.
    pub fn holding(day: NaiveDate) -> Self {
        Self(day.with_day(1).unwrap_or(day))
    }

    pub fn first_day(self) -> NaiveDate {
        self.0
    }

    /// The first moment after it.
    pub fn end(self) -> DateTime<Utc> {
        let next = self.0.checked_add_months(Months::new(1)).unwrap_or(NaiveDate::MAX);
        next.and_hms_opt(0, 0, 0).unwrap_or_default().and_utc()
    }

    /// `November 2026`.
    pub fn words(self) -> String {
        self.0.format("%B %Y").to_string()
    }
}

/// `2026-11`.
impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0.year(), self.0.month())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_ends_where_the_next_begins() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let last = Month::of(at("2026-12-31T23:59:59.999Z"));
        assert_eq!((last.to_string().as_str(), last.words().as_str()), ("2026-12", "December 2026"));
        assert_eq!(last.end(), at("2027-01-01T00:00:00Z"));
        assert_eq!(Month::of(last.end()).to_string(), "2027-01");
        assert_eq!(Month::of(at("2028-02-29T12:00:00Z")).end(), at("2028-03-01T00:00:00Z"));
        assert!(last < Month::of(last.end()));
    }
}
