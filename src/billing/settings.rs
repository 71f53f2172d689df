//! How Stripe is reached, and the rules that go by days: one TOML file, named by `FREEHOLD_STRIPE`.
//!
//! ```toml
//! mode = "test"                       # or "live": which of Stripe's two worlds this installation is in
//! key = "env:STRIPE_KEY"              # sk_… or rk_…, of that mode
//!
//! [webhooks]
//! snapshot = ["env:STRIPE_WEBHOOK"]   # the current secret, then the previous one while they change
//! thin = ["env:STRIPE_WEBHOOK_THIN"]
//! ```

use std::path::Path;
use std::time::Duration;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::kernel::{Error, Result, SecretRef, codes, settings_file};

/// Where Stripe answers.
pub const STRIPE: &str = "https://api.stripe.com/";
const PATIENCE: Duration = Duration::from_secs(30);
/// A lane's lease is twice this: whoever waits longer for an answer has lost its lane.
const PATIENCE_AT_MOST: u64 = 30;
/// A secret may have one successor; more are a mistake.
const SECRETS_AT_MOST: usize = 2;

/// Which of Stripe's two worlds. Nothing of one is ever used in the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Test,
    Live,
}

impl Mode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Live => "live",
        }
    }
}

/// Days after the first unpaid day, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessDays {
    /// Until this day everything is allowed, with a banner.
    pub grace: u32,
    /// From this day on the workspace is read-only.
    pub restricted: u32,
    /// From this day on nothing is answered but the way to pay.
    pub suspended: u32,
}

impl Default for AccessDays {
    fn default() -> Self {
        Self { grace: 7, restricted: 14, suspended: 21 }
    }
}

/// What makes finance look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alerts {
    /// An invoice this many times as high as the mean of the ones before.
    pub invoice_times_mean: u32,
    /// Whether drafts are held back while a level of the reconciliation differs.
    pub hold_drafts: bool,
}

impl Default for Alerts {
    fn default() -> Self {
        Self { invoice_times_mean: 3, hold_drafts: true }
    }
}

/// Webhook secrets, read: the current one first, then the one before.
#[derive(Clone, Debug, Default)]
pub struct Webhooks {
    pub snapshot: Vec<SecretString>,
    pub thin: Vec<SecretString>,
}

/// The file's content, with its secrets read. The default has no key: then nobody is asked, and usage is only recorded.
#[derive(Clone, Debug)]
pub struct Settings {
    pub mode: Mode,
    pub key: Option<SecretString>,
    /// Ends in `/`.
    pub base_url: Url,
    pub webhooks: Webhooks,
    pub access: AccessDays,
    pub alerts: Alerts,
    /// Meter events that all senders together may send in a second.
    pub events_per_second: u32,
    /// The portal's configuration at Stripe (`bpc_…`); its default when not given.
    pub portal_configuration: Option<String>,
    /// The longest one call may take. A lane's lease is longer.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Test,
            key: None,
            base_url: STRIPE.parse().expect("a constant address"),
            webhooks: Webhooks::default(),
            access: AccessDays::default(),
            alerts: Alerts::default(),
            events_per_second: events_per_second(Mode::Test),
            portal_configuration: None,
            patience: PATIENCE,
        }
    }
}

/// What Stripe takes of meter events: 1,000 a second in live mode, 25 in a sandbox. A little less, for what others send
/// with the same key.
fn events_per_second(mode: Mode) -> u32 {
    match mode {
        Mode::Test => 22,
        Mode::Live => 900,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mode: Mode,
    key: SecretRef,
    base_url: Option<String>,
    #[serde(default)]
    webhooks: FileWebhooks,
    #[serde(default)]
    access: AccessDays,
    #[serde(default)]
    alerts: Alerts,
    events_per_second: Option<u32>,
    /// Of one call; 30 when not said, which is the most.
    patience_seconds: Option<u64>,
    portal_configuration: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FileWebhooks {
    snapshot: Vec<SecretRef>,
    thin: Vec<SecretRef>,
}

const WHAT: &str = "the Stripe settings";

fn wrong(why: impl std::fmt::Display) -> Error {
    Error::new(&codes::BAD_REQUEST).detail(format!("{WHAT}: {why}"))
}

impl Settings {
    /// Whether there is a Stripe to ask.
    pub fn enabled(&self) -> bool {
        self.key.is_some()
    }

    pub fn livemode(&self) -> bool {
        self.mode == Mode::Live
    }

    /// For a Stripe of our own on this machine, as development and tests have it.
    ///
    /// # Errors
    /// As [`Settings::parse`]: another machine's address, a live key.
    pub fn for_loopback(base_url: &str, key: &str, webhooks: Webhooks) -> Result<Self> {
        let settings = Self {
            key: Some(SecretString::from(key.to_owned())),
            base_url: base_url_of(base_url, Mode::Test)?,
            webhooks,
            // Ours is not held to Stripe's sandbox limits unless it is told to be.
            events_per_second: events_per_second(Mode::Live),
            ..Self::default()
        };
        settings.checked()
    }

    /// Reads the text and the secrets that it refers to.
    ///
    /// # Errors
    /// `bad_request` with the line that is wrong, or the secret that cannot be read. No secret is repeated.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_with(text, SecretRef::read)
    }

    fn parse_with(text: &str, secret: impl Fn(&SecretRef) -> Result<SecretString>) -> Result<Self> {
        let file: File = settings_file::parse(WHAT, text)?;
        let read = |all: &[SecretRef]| all.iter().map(&secret).collect::<Result<Vec<_>>>();
        let settings = Self {
            mode: file.mode,
            key: Some(secret(&file.key)?),
            base_url: base_url_of(file.base_url.as_deref().unwrap_or(STRIPE), file.mode)?,
            webhooks: Webhooks { snapshot: read(&file.webhooks.snapshot)?, thin: read(&file.webhooks.thin)? },
            access: file.access,
            alerts: file.alerts,
            events_per_second: file.events_per_second.unwrap_or(events_per_second(file.mode)),
            portal_configuration: file.portal_configuration,
            patience: patience_of(file.patience_seconds)?,
        };
        settings.checked()
    }

    /// What the file says; without one, the default: no Stripe.
    ///
    /// # Errors
    /// As [`Settings::parse`], and when the file cannot be read.
    pub fn of(file: Option<&Path>) -> Result<Self> {
        let Some(file) = file else { return Ok(Self::default()) };
        Self::parse(&settings_file::read(WHAT, file)?)
    }

    fn checked(self) -> Result<Self> {
        let mode = self.mode.as_str();
        if let Some(key) = &self.key {
            let fits = ["sk", "rk"].iter().any(|kind| {
                let prefix = format!("{kind}_{mode}_");
                key.expose_secret().strip_prefix(&prefix).is_some_and(|rest| !rest.is_empty())
            });
            if !fits {
                return Err(wrong(format!("the key is not one of {mode} mode"))
                    .hint(format!("it begins with sk_{mode}_ or rk_{mode}_")));
            }
        }
        for (name, secrets) in [("snapshot", &self.webhooks.snapshot), ("thin", &self.webhooks.thin)] {
            if secrets.len() > SECRETS_AT_MOST {
                return Err(wrong(format!(
                    "webhooks.{name} has more than the current and the previous secret"
                )));
            }
            if secrets.iter().any(|secret| !secret.expose_secret().starts_with("whsec_")) {
                return Err(wrong(format!("a secret of webhooks.{name} is none: it begins with whsec_")));
            }
        }
        let AccessDays { grace, restricted, suspended } = self.access;
        if !(grace <= restricted && restricted <= suspended) {
            return Err(wrong("access: grace ≤ restricted ≤ suspended must hold"));
        }
        if self.events_per_second == 0 {
            return Err(wrong("events_per_second is 0: nothing would ever be sent"));
        }
        Ok(self)
    }
}

/// How long one call may take.
fn patience_of(seconds: Option<u64>) -> Result<Duration> {
    match seconds {
        None => Ok(PATIENCE),
        Some(seconds @ 1..=PATIENCE_AT_MOST) => Ok(Duration::from_secs(seconds)),
        Some(_) => Err(wrong(format!("patience_seconds is 1 to {PATIENCE_AT_MOST}"))),
    }
}

/// Stripe's address may only be replaced by one of this machine, and never in live mode: whoever answers there is told
/// the key.
fn base_url_of(text: &str, mode: Mode) -> Result<Url> {
    let with_slash = if text.ends_with('/') { text.to_owned() } else { format!("{text}/") };
    let url: Url = with_slash.parse().map_err(|_| wrong("base_url is no address"))?;
    if url.as_str() == STRIPE {
        return Ok(url);
    }
    let here = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    let clean = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    match mode {
        Mode::Live => Err(wrong("base_url may not be given in live mode")),
        Mode::Test if here && clean && matches!(url.scheme(), "http" | "https") => Ok(url),
        Mode::Test => Err(wrong("base_url may only be an address of this machine")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if each environment variable held this text after its name's first part: `env:K=sk_test_abc`.
    fn parse(text: &str) -> Result<Settings> {
        Settings::parse_with(text, |secret| {
            let text = secret.to_string();
            Ok(SecretString::from(
                text.split_once('=').map(|(_, value)| value.to_owned()).unwrap_or_default(),
            ))
        })
    }

    #[test]
    fn a_file_names_the_mode_the_key_and_the_secrets() {
        let text = "mode = 'test'\nkey = 'env:K=sk_test_abc'\n[webhooks]\nsnapshot = ['env:W=whsec_a', 'env:V=whsec_b']\n";
        let settings = parse(text).unwrap();
        assert!(settings.enabled() && !settings.livemode());
        assert_eq!(settings.base_url.as_str(), STRIPE);
        assert_eq!(settings.webhooks.snapshot.len(), 2);
        assert_eq!(settings.access, AccessDays { grace: 7, restricted: 14, suspended: 21 });
        assert!(!format!("{settings:?}").contains("sk_test_abc"), "a key is never shown");
        assert!(!Settings::default().enabled());
        let patient = parse("mode = 'test'\nkey = 'env:K=sk_test_abc'\npatience_seconds = 5\n").unwrap();
        assert_eq!((settings.patience, patient.patience), (PATIENCE, Duration::from_secs(5)));
    }

    /// The modes never mix, and nobody else is told the key.
    #[test]
    fn a_key_of_the_other_mode_and_a_foreign_address_are_refused() {
        let (test, live) = ("env:K=sk_test_abc", "env:K=rk_live_abc");
        assert!(parse(&format!("mode = 'live'\nkey = '{live}'")).unwrap().livemode());
        for (mode, key, rest) in [
            ("live", test, ""),
            ("test", live, ""),
            ("live", live, "base_url = 'http://127.0.0.1:1'"),
            ("test", test, "base_url = 'https://api.stripe.com.example.com/'"),
            ("test", test, "base_url = 'http://u:p@127.0.0.1:1'"),
            ("test", test, "base_url = 'no address'"),
            ("test", test, "unknown = 1"),
            ("test", test, "events_per_second = 0"),
            ("test", test, "patience_seconds = 0"),
            ("test", test, "patience_seconds = 31"),
            ("test", test, "[access]\ngrace = 30"),
            ("test", test, "[webhooks]\nthin = ['env:W=sk_test_abc']"),
            ("test", test, "[webhooks]\nthin = ['env:W=whsec_a', 'env:W=whsec_b', 'env:W=whsec_c']"),
        ] {
            let error = parse(&format!("mode = '{mode}'\nkey = '{key}'\n{rest}")).unwrap_err();
            assert!(!format!("{error:?}").contains("_abc"), "no secret in {error:?}");
        }
        let in_the_open = Settings::parse("mode = 'test'\nkey = 'sk_test_abc'").unwrap_err().to_string();
        assert!(in_the_open.contains("by reference") && in_the_open.contains("line 2"), "{in_the_open}");
        assert!(!in_the_open.contains("sk_test"), "{in_the_open}");
        let here = Settings::for_loopback("http://127.0.0.1:1", "sk_test_x", Webhooks::default()).unwrap();
        assert_eq!(here.base_url.as_str(), "http://127.0.0.1:1/");
    }
}
