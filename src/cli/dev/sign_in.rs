//! How people get in to `freehold dev`, and where their mail goes: the local provider and the mailbox, unless the identity
//! settings name others.

use std::path::Path;
use std::time::Duration;

use axum::Router;

use super::mailbox::Mailbox;
use super::screen;
use crate::control_plane::Addresses;
use crate::identity::letters::Carrier;
use crate::identity::oidc::settings::{ProviderKind, ProviderSettings};
use crate::identity::settings::{MailSettings, MailTransport, Settings};
use crate::kernel::{Clock, Result, SecretRef};
use crate::local::LocalIdp;

/// The provider's id in addresses.
const ID: &str = "dev";

/// What this run has for people, beside the settings.
#[derive(Default)]
pub struct People {
    pub mailbox: Option<Mailbox>,
    /// Ends with the value.
    pub provider: Option<LocalIdp>,
}

impl People {
    /// Completes the settings with what they do not name. `open`: others than this machine's users can reach the server;
    /// then there is neither a provider that believes everybody nor a mailbox that everybody can read.
    pub async fn provide(home: &Path, addresses: &Addresses, settings: &mut Settings, open: bool) -> Self {
        if open {
            screen::note("this address can be reached from elsewhere: no local sign-in, no mail page");
            settings.mail.get_or_insert_with(|| mail(MailTransport::Folder { path: home.join("mail") }));
            return Self::default();
        }
        let mailbox = settings.mail.is_none().then(Mailbox::default);
        settings.mail.get_or_insert_with(|| mail(MailTransport::Given));
        let provider = match settings.providers.is_empty() {
            true => provider(home, addresses, settings).await,
            false => None,
        };
        Self { mailbox, provider }
    }

    /// Who carries the mail; none when the settings say who.
    pub fn carrier(&self) -> Option<Carrier> {
        self.mailbox.as_ref().map(Mailbox::carrier)
    }

    /// Keeps the provider's clock with the platform's, which the stand-in for Stripe can move. Never ends.
    pub async fn keep_time(&mut self, clock: &Clock) {
        let Some(provider) = &mut self.provider else { return std::future::pending().await };
        let mut told = 0;
        loop {
            let ahead = (clock.now() - Clock::System.now()).num_milliseconds();
            if (ahead - told).abs() > 1_000 {
                if let Err(error) = provider.set_ahead(ahead).await {
                    tracing::warn!(%error, "the sign-in provider does not hear what time it is");
                    return std::future::pending().await;
                }
                told = ahead;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Pages that only this command has.
    pub fn pages(&self) -> Router {
        self.mailbox.as_ref().map(Mailbox::routes).unwrap_or_default()
    }
}

fn mail(transport: MailTransport) -> MailSettings {
    MailSettings { from: "Freehold <no-reply@localhost.localdomain>".to_owned(), transport }
}

/// Starts the local provider and names it in the settings. Without Node.js, or when it does not start, says so and goes
/// on without: everything but signing in works.
async fn provider(home: &Path, addresses: &Addresses, settings: &mut Settings) -> Option<LocalIdp> {
    if !LocalIdp::is_possible().await {
        screen::note("no sign-in for people: it takes Node.js 18 or newer with npm; make deps installs them");
        return None;
    }
    match start(&home.join("idp"), addresses).await {
        Ok((idp, named)) => {
            // Operators by the same provider, at their own door; who is one is said by `freehold operator add`.
            if settings.operator_providers.is_empty() {
                settings.operator_providers.push(named.clone());
            }
            settings.providers.push(named);
            Some(idp)
        }
        Err(error) => {
            screen::note(&format!("no sign-in for people: {error}"));
            None
        }
    }
}

async fn start(folder: &Path, addresses: &Addresses) -> Result<(LocalIdp, ProviderSettings)> {
    if !LocalIdp::is_installed(folder) {
        screen::say("fetching the local sign-in provider with npm (the first time only)");
    }
    LocalIdp::install(folder).await?;
    let base = addresses.base_url();
    let redirects = ["", "/operator"].map(|door| format!("{base}{door}/sign-in/{ID}/callback"));
    let idp = LocalIdp::start(folder, &redirects).await?;
    let named = ProviderSettings {
        id: ID.to_owned(),
        name: "the local provider (development only)".to_owned(),
        kind: ProviderKind::Oidc,
        issuer: Some(idp.issuer.clone()),
        client_id: LocalIdp::CLIENT.to_owned(),
        client_secret: SecretRef::File(LocalIdp::secret_file(folder)?.to_string_lossy().into_owned()),
        api_url: None,
    };
    Ok((idp, named))
}
