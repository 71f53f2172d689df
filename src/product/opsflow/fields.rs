//! What a field accepts: texts PostgreSQL can store, times it can hold, and the difference between `null` and absent.

use std::borrow::Cow;

use chrono::{DateTime, Datelike, SubsecRound, Utc};
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

/// The longest description of a project or a task, in characters.
pub const DESCRIPTION_MAX: usize = 20_000;

/// A name on one line: something visible, no control characters.
pub fn line(max: usize) -> impl FnOnce(&str, &()) -> garde::Result {
    move |text, _| {
        if text.trim().is_empty() {
            return Err(garde::Error::new("must not be blank"));
        }
        if text.chars().any(char::is_control) {
            return Err(garde::Error::new("must be one line without control characters"));
        }
        at_most(text, max)
    }
}

/// A text of any number of lines, perhaps empty.
pub fn prose(max: usize) -> impl FnOnce(&str, &()) -> garde::Result {
    move |text, _| {
        // PostgreSQL stores every character but this one.
        if text.contains('\0') {
            return Err(garde::Error::new("must not contain the character U+0000"));
        }
        at_most(text, max)
    }
}

/// [`prose`] with something in it.
pub fn some_prose(max: usize) -> impl FnOnce(&str, &()) -> garde::Result {
    move |text, context| {
        if text.trim().is_empty() {
            return Err(garde::Error::new("must not be blank"));
        }
        prose(max)(text, context)
    }
}

fn at_most(text: &str, max: usize) -> garde::Result {
    // Bytes bound characters, so a huge text is refused without being counted.
    if text.len() > max * 4 || text.chars().count() > max {
        return Err(garde::Error::new(format!("must have at most {max} characters")));
    }
    Ok(())
}

/// A time within the years 1 to 9999: beyond, neither PostgreSQL nor RFC 3339 follows.
pub fn calendar(at: &DateTime<Utc>, _: &()) -> garde::Result {
    if in_calendar(*at) { Ok(()) } else { Err(garde::Error::new("must be within the years 1 to 9999")) }
}

pub fn in_calendar(at: DateTime<Utc>) -> bool {
    (1..=9999).contains(&at.year())
}

/// As PostgreSQL keeps it: to the microsecond.
pub fn stored(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(6)
}

/// For a field that may be left out but not be `null`: `#[serde(default, deserialize_with = "given")]`.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// For a field where `null` clears and absence keeps: the outer option says whether it was given.
#[allow(clippy::option_option)]
pub fn given_or_null<'de, D, T>(d: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(d).map(Some)
}

/// A time in a query string.
pub fn moment<'de, D: Deserializer<'de>>(d: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let at = DateTime::<Utc>::deserialize(d)?;
    calendar(&at, &()).map_err(D::Error::custom)?;
    Ok(Some(at))
}

/// A short text in a query string.
pub fn term<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(d)?;
    prose(200)(&text, &()).map_err(D::Error::custom)?;
    Ok(Some(text))
}

/// Words separated by commas in a query string; any of them will do.
pub fn any_of<'de, D: Deserializer<'de>, T: DeserializeOwned>(d: D) -> Result<Option<Vec<T>>, D::Error> {
    let text = Cow::<'de, str>::deserialize(d)?;
    let words = text.split(',').map(|word| T::deserialize(StrDeserializer::<D::Error>::new(word)));
    words.collect::<Result<Vec<T>, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        assert!(line(5)("héllo", &()).is_ok());
        for bad in ["", "   ", "a\nb", "a\0", "123456"] {
            assert!(line(5)(bad, &()).is_err(), "{bad:?}");
        }
        assert!(prose(5)("", &()).is_ok());
        assert!(prose(5)("a\nb", &()).is_ok());
        assert!(prose(5)("a\0", &()).is_err());
        assert!(prose(5)(&"é".repeat(6), &()).is_err());
        assert!(some_prose(5)(" \n", &()).is_err());
    }

    #[test]
    fn absent_null_and_given_are_three_things() {
        #[derive(Deserialize)]
        struct Patch {
            #[serde(default, deserialize_with = "given")]
            title: Option<String>,
            #[serde(default, deserialize_with = "given_or_null")]
            assignee: Option<Option<String>>,
        }
        let read = |text: &str| serde_json::from_str::<Patch>(text).map(|p| (p.title, p.assignee));
        assert_eq!(read("{}").unwrap(), (None, None));
        assert_eq!(read(r#"{"assignee":null}"#).unwrap(), (None, Some(None)));
        assert_eq!(
            read(r#"{"assignee":"a","title":"t"}"#).unwrap(),
            (Some("t".into()), Some(Some("a".into())))
        );
        assert!(read(r#"{"title":null}"#).is_err());
    }
}
