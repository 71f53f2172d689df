//! The ledger's partitions, one a month, made ahead.

use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};

use crate::control_plane::ControlPlane;
use crate::kernel::{Error, Result};

/// Months that are there before they are needed. Whatever comes when there is none goes into one of its own, and is taken
/// out again when its month is made.
const AHEAD: u32 = 2;

/// Makes this month's partition and the next ones. Safe to repeat, and from two places at once. Says how many it made.
pub async fn months_make(cp: &ControlPlane) -> Result<usize> {
    let mut made = 0;
    for month in months(cp.clock.now())? {
        let new: bool =
            sqlx::query_scalar("SELECT usage_month_make($1)").bind(month).fetch_one(&cp.db).await?;
        made += usize::from(new);
    }
    Ok(made)
}

/// The one before, for what is late, this one and those ahead.
fn months(now: DateTime<Utc>) -> Result<Vec<NaiveDate>> {
    let today = now.date_naive();
    let this = today.with_day(1).unwrap_or(today);
    let first = this.checked_sub_months(Months::new(1)).ok_or_else(|| Error::internal("no month before"))?;
    Ok((0..=AHEAD + 1).filter_map(|ahead| first.checked_add_months(Months::new(ahead))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_month_before_this_one_and_two_ahead() {
        let now = DateTime::parse_from_rfc3339("2026-11-30T23:59:59Z").unwrap().to_utc();
        let texts: Vec<String> = months(now).unwrap().iter().map(NaiveDate::to_string).collect();
        assert_eq!(texts, ["2026-10-01", "2026-11-01", "2026-12-01", "2027-01-01"]);
    }
}
