//! `Stripe-Signature: t=<seconds>,v1=<hex>[,v1=<hex>…]`: HMAC-SHA256 over `<t>.<body>`, keyed with the whole text of the
//! endpoint's secret. While a secret changes Stripe signs with both, and we know both.

use aws_lc_rs::{constant_time, hmac};
use chrono::{DateTime, Utc};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use secrecy::{ExposeSecret, SecretString};

/// The header's name.
pub const HEADER: &str = "stripe-signature";
/// Seconds that a signature may be old, or ahead of our clock.
pub const TOLERANCE: i64 = 300;
/// Longest header that is read. Stripe's have about 200 characters.
const LONGEST: usize = 4096;
/// Signatures that are compared.
const MOST: usize = 16;

/// Which secret made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Good {
    Current,
    /// It should be out of use: whoever changed the secret has to see that it is not.
    Previous,
}

/// Why it does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    #[error("there is no Stripe-Signature header that can be read")]
    Unreadable,
    #[error("there is no signature of scheme v1")]
    NoScheme,
    #[error("the signature is too old")]
    TooOld,
    #[error("the signature is from the future")]
    TooNew,
    #[error("no secret of this endpoint makes this signature")]
    NoMatch,
}

impl Bad {
    /// For metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::NoScheme => "no_scheme",
            Self::TooOld => "too_old",
            Self::TooNew => "too_new",
            Self::NoMatch => "no_match",
        }
    }
}

/// Whether one of `secrets` (the current one first) signed these bytes within the last five minutes.
///
/// # Errors
/// What is wrong with it. Who sent it learns no more than that it is wrong.
pub fn check(
    header: Option<&str>,
    body: &[u8],
    secrets: &[SecretString],
    now: DateTime<Utc>,
) -> Result<Good, Bad> {
    let header = header.filter(|header| header.len() <= LONGEST).ok_or(Bad::Unreadable)?;
    let (mut at, mut signatures) = (None, Vec::new());
    for part in header.split(',') {
        match part.trim().split_once('=') {
            // Of two times, one was put there by somebody else.
            Some(("t", time)) if at.replace(time).is_some() => return Err(Bad::Unreadable),
            Some(("v1", hex)) if signatures.len() < MOST => {
                // One of a wrong form is none; another one may be right.
                signatures.extend(HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok());
            }
            _ => {}
        }
    }
    let text = at.ok_or(Bad::Unreadable)?;
    let seconds: i64 = text.parse().map_err(|_| Bad::Unreadable)?;
    if signatures.is_empty() {
        return Err(Bad::NoScheme);
    }
    let good = secrets.iter().position(|secret| {
        let wanted = tag(secret.expose_secret(), text, body);
        // All are compared, so that the time says nothing of which one was right.
        signatures.iter().fold(false, |found, signature| {
            constant_time::verify_slices_are_equal(wanted.as_ref(), signature).is_ok() | found
        })
    });
    let good = match good {
        Some(0) => Good::Current,
        Some(_) => Good::Previous,
        None => return Err(Bad::NoMatch),
    };
    match now.timestamp().saturating_sub(seconds) {
        age if age > TOLERANCE => Err(Bad::TooOld),
        age if age < -TOLERANCE => Err(Bad::TooNew),
        _ => Ok(good),
    }
}

/// A header that [`check`] finds good: for tests and for a Stripe of our own.
pub fn sign(secret: &str, at: i64, body: &[u8]) -> String {
    format!("t={at},v1={}", HEXLOWER.encode(tag(secret, &at.to_string(), body).as_ref()))
}

fn tag(secret: &str, at: &str, body: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
    context.update(at.as_bytes());
    context.update(b".");
    context.update(body);
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: i64 = 1_700_000_000;
    const BODY: &[u8] = br#"{"id":"evt_1"}"#;

    fn secrets() -> Vec<SecretString> {
        ["whsec_new", "whsec_old"].map(|secret| SecretString::from(secret.to_owned())).to_vec()
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn checked(header: &str) -> Result<Good, Bad> {
        check(Some(header), BODY, &secrets(), at(AT + 5))
    }

    #[test]
    fn the_current_and_the_previous_secret_are_told_apart_and_others_are_refused() {
        assert_eq!(checked(&sign("whsec_new", AT, BODY)), Ok(Good::Current));
        assert_eq!(checked(&sign("whsec_old", AT, BODY)), Ok(Good::Previous));
        assert_eq!(checked(&sign("whsec_else", AT, BODY)), Err(Bad::NoMatch));
        // The part after the underscore alone is no key of theirs.
        assert_eq!(checked(&sign("new", AT, BODY)), Err(Bad::NoMatch));
    }

    #[test]
    fn of_several_signatures_one_has_to_be_right_and_only_v1_counts() {
        let (good, wrong) = (sign("whsec_new", AT, BODY), sign("whsec_else", AT, BODY));
        let v1 = |header: &str| header.split_once(",v1=").unwrap().1.to_owned();
        let two = format!("t={AT},v1={},v1={}", v1(&wrong), v1(&good));
        assert_eq!(checked(&two), Ok(Good::Current));
        assert_eq!(checked(&format!("t={AT}, v1={} ,v0=00", v1(&good))), Ok(Good::Current));
        assert_eq!(checked(&format!("t={AT},v0={}", v1(&good))), Err(Bad::NoScheme));
        assert_eq!(
            checked(&format!("t={AT},v1=zz,v1={}", v1(&good))),
            Ok(Good::Current),
            "one odd one is none"
        );
        assert_eq!(checked(&format!("t={AT},v1={}", &v1(&good)[..62])), Err(Bad::NoMatch));
    }

    #[test]
    fn the_bytes_and_the_time_are_what_was_signed() {
        let header = sign("whsec_new", AT, BODY);
        for body in [&b"{\"id\":\"evt_2\"}"[..], b"", b"{\"id\":\"evt_1\"} "] {
            assert_eq!(check(Some(&header), body, &secrets(), at(AT)), Err(Bad::NoMatch));
        }
        assert_eq!(checked(&header.replace(&AT.to_string(), &(AT + 1).to_string())), Err(Bad::NoMatch));
        for (seconds, want) in [
            (TOLERANCE, Ok(Good::Current)),
            (TOLERANCE + 1, Err(Bad::TooOld)),
            (-TOLERANCE, Ok(Good::Current)),
            (-TOLERANCE - 1, Err(Bad::TooNew)),
        ] {
            assert_eq!(check(Some(&header), BODY, &secrets(), at(AT + seconds)), want, "{seconds}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_whatever_it_is() {
        let good = sign("whsec_new", AT, BODY);
        let v1 = good.split_once(',').unwrap().1;
        for header in ["", ",", "=", "t", "v1", v1, &format!("t=x,{v1}"), &format!("t={AT},t={AT},{v1}")] {
            assert_eq!(checked(header), Err(Bad::Unreadable), "{header:?}");
        }
        let long = format!("{good},{}", "x".repeat(LONGEST));
        assert_eq!(checked(&long), Err(Bad::Unreadable));
        assert_eq!(check(None, BODY, &secrets(), at(AT)), Err(Bad::Unreadable));
        assert_eq!(check(Some(&good), BODY, &[], at(AT)), Err(Bad::NoMatch), "an endpoint without a secret");
    }
}
