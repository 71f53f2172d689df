//! Carries mail: by SMTP, or into a folder for development.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncFileTransport, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use secrecy::ExposeSecret;

use crate::identity::letters::{Carrier, Mail};
use crate::identity::settings::{MailSettings, MailTransport};
use crate::kernel::{Error, Result, codes};

/// The longest one mail may take to hand over.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
enum Transport {
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
    Folder(AsyncFileTransport<Tokio1Executor>),
}

/// Prepares the carrier; nothing is connected before the first mail.
///
/// # Errors
/// `bad_request` that says which setting is wrong.
pub fn carrier(settings: &MailSettings) -> Result<Carrier> {
    let wrong = |why: String| Error::new(&codes::BAD_REQUEST).detail(format!("the mail settings: {why}"));
    let from: Mailbox = settings.from.parse().map_err(|error| wrong(format!("from: {error}")))?;
    let transport = match &settings.transport {
        MailTransport::Folder { path } => Transport::Folder(folder(path)?),
        MailTransport::Smtp { host, port, user, password } => {
            let mut smtp = AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(host)
                .map_err(|error| wrong(format!("host: {error}")))?
                .port(port.unwrap_or(587))
                .timeout(Some(PATIENCE));
            if let (Some(user), Some(password)) = (user, password) {
                let password = password.read()?;
                smtp = smtp.credentials(Credentials::new(user.clone(), password.expose_secret().to_owned()));
            }
            Transport::Smtp(smtp.build())
        }
        MailTransport::Given => return Err(wrong("this program brings no mailbox along".to_owned())),
    };
    Ok(Arc::new(move |mail| Box::pin(send(transport.clone(), from.clone(), mail))))
}

fn folder(path: &PathBuf) -> Result<AsyncFileTransport<Tokio1Executor>> {
    std::fs::create_dir_all(path).map_err(|error| {
        Error::new(&codes::BAD_REQUEST)
            .detail(format!("the mail folder {} cannot be made", path.display()))
            .source(error)
    })?;
    Ok(AsyncFileTransport::new(path))
}

async fn send(transport: Transport, from: Mailbox, mail: Mail) -> Result<()> {
    let to: Mailbox = mail.to.parse().map_err(Error::internal)?;
    let message = Message::builder()
        .from(from)
        .to(to)
        .subject(mail.subject)
        .multipart(MultiPart::alternative_plain_html(mail.text, mail.html))
        .map_err(Error::internal)?;
    match transport {
        Transport::Smtp(smtp) => smtp.send(message).await.map(drop).map_err(Error::internal),
        Transport::Folder(folder) => folder.send(message).await.map(drop).map_err(Error::internal),
    }
}
