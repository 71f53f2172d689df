//! How people get in: one TOML file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::oidc::settings::ProviderSettings;
use crate::kernel::{Error, Result, SecretRef, codes, settings_file};

const WHAT: &str = "the identity settings";

/// The file's content. Without a file there is no way in for people; keys work as ever.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Whether people who are invited by nobody may make a workspace of their own.
    pub sign_up: bool,
    /// `[[provider]]`, in the order of the buttons.
    #[serde(rename = "provider")]
    pub providers: Vec<ProviderSettings>,
    /// `[[operator_provider]]`: where operators sign in, at `/operator`. Customers never see it.
    #[serde(rename = "operator_provider")]
    pub operator_providers: Vec<ProviderSettings>,
    /// `[mail]`. Without it nobody can be invited by mail.
    pub mail: Option<MailSettings>,
    /// `[password]`. Off unless it is switched on; needs `[mail]`.
    pub password: PasswordSettings,
}

/// An address and a password as a way in.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PasswordSettings {
    pub enabled: bool,
    /// What one hash takes, in KiB. Raised later, each password is hashed anew when its person signs in.
    pub memory_kib: u32,
    /// How often it goes over that memory.
    pub passes: u32,
}

impl Default for PasswordSettings {
    /// What OWASP asks for at least: 19 MiB, two passes.
    fn default() -> Self {
        Self { enabled: false, memory_kib: 19 * 1024, passes: 2 }
    }
}

impl PasswordSettings {
    fn check(&self, mail: bool) -> Result<()> {
        let (least, most) = (Self::default(), 1024 * 1024);
        let wrong = |why: &'static str| Err(Error::new(&codes::BAD_REQUEST).detail(why));
        if self.enabled && !mail {
            return wrong(
                "the identity settings: [password] needs [mail], because each address is proven by a mail",
            );
        }
        let strong = (least.memory_kib..=most).contains(&self.memory_kib)
            && (least.passes..=20).contains(&self.passes);
        if !strong {
            return wrong(
                "the identity settings: [password] takes memory_kib of 19456 to 1048576, passes of 2 to 20",
            );
        }
        Ok(())
    }
}

/// How mail leaves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MailSettings {
    /// `OpsFlow <no-reply@example.com>`
    pub from: String,
    pub transport: MailTransport,
}

/// `transport = { smtp = { host = "…" } }`, or `{ folder = { path = "…" } }` for development.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MailTransport {
    /// SMTP with STARTTLS, which is required.
    Smtp { host: String, port: Option<u16>, user: Option<String>, password: Option<SecretRef> },
    /// One file per mail.
    Folder { path: PathBuf },
    /// By what the program brings along; no file can ask for it. Only `freehold dev` has one, which sends nothing.
    #[serde(skip)]
    Given,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sign_up: true,
            providers: Vec::new(),
            operator_providers: Vec::new(),
            mail: None,
            password: PasswordSettings::default(),
        }
    }
}

impl Settings {
    /// # Errors
    /// `bad_request` with the line that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let settings: Self = settings_file::parse(WHAT, text)?;
        settings.password.check(settings.mail.is_some())?;
        Ok(settings)
    }

    /// What the file says; without a file, the defaults.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn of(file: Option<&Path>) -> Result<Self> {
        file.map_or_else(|| Ok(Self::default()), Self::read)
    }

    /// # Errors
    /// As [`Settings::parse`], and when the file cannot be read.
    pub fn read(file: &Path) -> Result<Self> {
        Self::parse(&settings_file::read(WHAT, file)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_providers_and_nothing_unknown() {
        let text = r#"
            sign_up = false
            [[provider]]
            id = "google"
            name = "Google"
            issuer = "https://accounts.google.com"
            client_id = "abc"
            client_secret = "env:GOOGLE_SECRET"
            [[provider]]
            id = "github"
            name = "GitHub"
            kind = "github"
            client_id = "def"
            client_secret = "file:/run/secrets/github"
        "#;
        let settings = Settings::parse(text).unwrap();
        assert!(!settings.sign_up);
        assert_eq!(settings.providers.len(), 2);
        assert!(Settings::parse("").unwrap().sign_up);
        for bad in ["sign_up = 1", "unknown = 1", "[[provider]]\nid = \"x\""] {
            assert!(Settings::parse(bad).is_err(), "{bad}");
        }
        let given = "[mail]\nfrom = \"a@b.example\"\ntransport = \"given\"";
        assert!(Settings::parse(given).is_err(), "only a program brings a mailbox along");
        assert!(!settings.password.enabled, "off unless it is switched on");
        let mail = "[mail]\nfrom = \"a@example.com\"\ntransport = { folder = { path = \"m\" } }\n";
        assert!(Settings::parse("[password]\nenabled = true").is_err(), "no mail");
        assert!(Settings::parse(&format!("{mail}[password]\nenabled = true")).unwrap().password.enabled);
        for weak in ["memory_kib = 8192", "passes = 1", "memory_kib = 9999999"] {
            assert!(Settings::parse(&format!("{mail}[password]\n{weak}")).is_err(), "{weak}");
        }
        let secret_in_the_open = text.replace("env:GOOGLE_SECRET", "GOCSPX-abc");
        assert!(Settings::parse(&secret_in_the_open).is_err(), "a secret is given by reference");
    }
}
