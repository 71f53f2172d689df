//! Times as texts, spelled as chrono spells them and several times as fast: a list of twenty rows holds some fifty.
//!
//! For a field: `#[serde(serialize_with = "rfc3339::required")]` or `rfc3339::optional`.

use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};
use serde::Serializer;

/// The longest text made here: `2026-11-21T15:00:00.123456789Z`.
const LONGEST: usize = 30;

/// The text of a time in UTC: as many digits of a second as are needed, in threes.
pub fn spell<T>(at: DateTime<Utc>, then: impl FnOnce(&str) -> T) -> T {
    let (year, nanos) = (at.year(), at.nanosecond());
    // Years of other lengths and leap seconds are too rare to deserve a second spelling.
    if !(0..=9999).contains(&year) || nanos >= 1_000_000_000 {
        return then(&at.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    }
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let mut put = |from: usize, to: usize, mut number: u32| {
        for digit in text[from..to].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    };
    put(0, 4, year.unsigned_abs());
    put(5, 7, at.month());
    put(8, 10, at.day());
    put(11, 13, at.hour());
    put(14, 16, at.minute());
    put(17, 19, at.second());
    put(20, 29, nanos);
    let end = match nanos {
        0 => 19,
        _ if nanos.is_multiple_of(1_000_000) => 23,
        _ if nanos.is_multiple_of(1_000) => 26,
        _ => LONGEST - 1,
    };
    text[end] = b'Z';
    // ASCII only.
    then(std::str::from_utf8(&text[..=end]).unwrap_or_default())
}

/// A time that is always there.
///
/// # Errors
/// The serializer's.
pub fn required<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    spell(*at, |text| serializer.serialize_str(text))
}

/// A time, or null.
///
/// # Errors
/// The serializer's.
pub fn optional<S: Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => required(at, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_chrono_spells_it(seconds in -70_000_000_000_i64..260_000_000_000, nanos in 0u32..2_000_000_000, digits in 0u32..10) {
            let nanos = nanos - nanos % 10_u32.pow(digits);
            if let Some(at) = DateTime::from_timestamp(seconds, nanos) {
                let chrono = serde_json::to_value(at).unwrap();
                spell(at, |text| assert_eq!(chrono, text));
            }
        }
    }
}
