//! A tenant's name in its address: `acme` in `acme.example.com`.

use serde::{Deserialize, Serialize};

/// 2 to 40 characters `a-z 0-9 -`, starting with a letter, no hyphen at the end or doubled, not a reserved word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, sqlx::Type, utoipa::ToSchema)]
#[sqlx(transparent)]
#[schema(value_type = String, pattern = "^[a-z](?:-?[a-z0-9]){1,39}$", example = "acme")]
pub struct Slug(String);

/// Why a text is not a slug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSlug {
    #[error("a slug has 2 to 40 characters")]
    Length,
    #[error(
        "a slug uses only a-z, 0-9 and single hyphens, starts with a letter and does not end with a hyphen"
    )]
    Shape,
    #[error("this slug is reserved")]
    Reserved,
}

/// Names that would confuse customers or shadow the platform's own hosts.
const RESERVED: [&str; 30] = [
    "admin",
    "api",
    "app",
    "auth",
    "billing",
    "blog",
    "cdn",
    "console",
    "dashboard",
    "docs",
    "freehold",
    "health",
    "help",
    "internal",
    "localhost",
    "login",
    "mail",
    "metrics",
    "operator",
    "root",
    "security",
    "signup",
    "smtp",
    "static",
    "status",
    "support",
    "system",
    "test",
    "webhooks",
    "www",
];

impl Slug {
    pub fn parse(text: &str) -> Result<Self, BadSlug> {
        if !(2..=40).contains(&text.len()) {
            return Err(BadSlug::Length);
        }
        let shape = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && text.as_bytes()[0].is_ascii_lowercase()
            && !text.ends_with('-')
            && !text.contains("--");
        if !shape {
            return Err(BadSlug::Shape);
        }
        if RESERVED.contains(&text) {
            return Err(BadSlug::Reserved);
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Slug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Slug {
    type Err = BadSlug;
    fn from_str(text: &str) -> Result<Self, BadSlug> {
        Self::parse(text)
    }
}

impl<'de> Deserialize<'de> for Slug {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs() {
        for good in ["acme", "a1", "north-wind-7"] {
            assert!(Slug::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("a", BadSlug::Length),
            ("", BadSlug::Length),
            ("1a", BadSlug::Shape),
            ("a--b", BadSlug::Shape),
            ("ab-", BadSlug::Shape),
            ("Acme", BadSlug::Shape),
            ("ac me", BadSlug::Shape),
            ("ac\u{e9}", BadSlug::Shape),
            ("www", BadSlug::Reserved),
        ] {
            assert_eq!(Slug::parse(bad), Err(why), "{bad}");
        }
        assert_eq!(Slug::parse(&"a".repeat(41)), Err(BadSlug::Length));
    }
}
