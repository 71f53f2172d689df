//! Which passwords are taken. Pure. Length is what counts (NIST SP 800-63B §3.1.1.2); there are no rules about kinds of
//! characters, and nobody has to change one without a reason.
//!
//! A password is hashed as the browser sends it. Unicode can spell one text in several ways, and NFKC would make them one;
//! but keyboards of one person agree with each other, a spelling that differs is refused and never let in, and a mailed
//! link helps whoever it happens to. So there is no table of Unicode in here.

use crate::kernel::{Error, Result};

pub const SHORTEST: usize = 12;
pub const LONGEST: usize = 256;
/// Fewer different characters than this are a pattern.
const DIFFERENT: usize = 5;

/// The most common ones of at least twelve characters, in lower case, without spaces. Shorter ones are refused as short.
const COMMON: [&str; 48] = [
    "123456789012",
    "1234567890123",
    "12345678901234",
    "123456789123",
    "123456789123456789",
    "1234567891011",
    "123412341234",
    "123123123123",
    "012345678910",
    "0123456789012",
    "098765432109",
    "1q2w3e4r5t6y",
    "1q2w3e4r5t6y7u",
    "1qaz2wsx3edc",
    "1qaz2wsx3edc4rfv",
    "qwertyuiop12",
    "qwertyuiop123",
    "qwertyuiop[]",
    "qwertyuiopasdfghjkl",
    "qwertyqwerty",
    "qwerty123456",
    "qwerty1234567",
    "qwertyuiopas",
    "qazwsxedcrfv",
    "zaq12wsxcde3",
    "asdfghjkl123",
    "asdfghjklzxcvbnm",
    "abcdefghijkl",
    "abcdefghijklm",
    "abcdefghijklmnop",
    "abcdefghijklmnopqrstuvwxyz",
    "abcd12345678",
    "abc123456789",
    "a1b2c3d4e5f6",
    "password1234",
    "password12345",
    "password123456",
    "passwordpassword",
    "passw0rd1234",
    "p@ssw0rd1234",
    "mypassword123",
    "administrator",
    "administrator1",
    "letmeinletmein",
    "iloveyou1234",
    "iloveyouiloveyou",
    "changemechangeme",
    "correcthorsebatterystaple",
];

/// Whether a password may be chosen for this address.
///
/// # Errors
/// `invalid_fields` that says why not.
pub fn acceptable(password: &str, email: &str) -> Result<()> {
    let no = |why: String| Err(Error::field("password", why));
    let length = password.chars().count();
    if !(SHORTEST..=LONGEST).contains(&length) {
        return no(format!("has {SHORTEST} to {LONGEST} characters"));
    }
    let plain: String = password.to_lowercase().split_whitespace().collect();
    let (email, local) = (email.to_lowercase(), email.split('@').next().unwrap_or_default().to_lowercase());
    // With what people put around it: ada.byron@example.com1!
    let around = plain.len().saturating_sub(email.len());
    if (plain.contains(&email) && around < SHORTEST) || plain.trim_matches(not_a_letter) == local {
        return no("is your address".to_owned());
    }
    let mut different: Vec<char> = plain.chars().collect();
    different.sort_unstable();
    different.dedup();
    if COMMON.contains(&plain.as_str()) || different.len() < DIFFERENT {
        return no("is one of those that are tried first".to_owned());
    }
    Ok(())
}

fn not_a_letter(c: char) -> bool {
    !c.is_alphabetic()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_ones_pass_and_the_first_guesses_do_not() {
        let takes = |password: &str| acceptable(password, "Ada.Byron@Example.com").is_ok();
        for good in [
            "correct horse battery",
            "ää öö üü ßß éé 12",
            "水水水 is not the same as 氷",
            &"aB3$x".repeat(51),
        ] {
            assert!(takes(good), "{good}");
        }
        for bad in [
            "",
            "short",
            "elevenchars",
            &"aB3$x".repeat(52),
            "aaaaaaaaaaaa",
            "121212121212",
            "Password1234",
            "pass word 1234",
            "Correct Horse Battery Staple",
            "ada.byron@example.com",
            "ADA.BYRON@EXAMPLE.COM1!",
            "ada.byron1234",
        ] {
            assert!(!takes(bad), "{bad}");
        }
        assert!(
            COMMON.iter().all(|one| one.chars().count() >= SHORTEST),
            "a shorter one is refused as short"
        );
        assert!(takes("ada.byron@example.com has a very long one"), "an address within a sentence");
    }
}
