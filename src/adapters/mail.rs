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
use crate::kernel::secret::sha256;
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

/// The same for the same letter: one that is sent again, because a worker ended between sending it and writing that down, is
/// shown once by mailboxes that look at this. Nothing that we could do makes sure that it comes once: SMTP has no such word.
fn message_id(from: &Mailbox, mail: &Mail) -> String {
    let parts = [&mail.to, &mail.subject, &mail.text].map(|part| sha256(part.as_bytes()));
    let hash = data_encoding::HEXLOWER.encode(&sha256(&parts.concat())[..20]);
    format!("<{hash}@{}>", from.email.domain())
}

async fn send(transport: Transport, from: Mailbox, mail: Mail) -> Result<()> {
    let to: Mailbox = mail.to.parse().map_err(Error::internal)?;
    let message = Message::builder()
        .message_id(Some(message_id(&from, &mail)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_letter_has_one_name() {
        let from: Mailbox = "Freehold <no-reply@example.com>".parse().unwrap();
        let mail = |to: &str, text: &str| Mail {
            to: to.to_owned(),
            subject: "Hello".to_owned(),
            text: text.to_owned(),
            html: String::new(),
        };
        let id = message_id(&from, &mail("ada@example.com", "a link"));
        assert_eq!(id, message_id(&from, &mail("ada@example.com", "a link")), "sent again after a crash");
        assert!(id.ends_with("@example.com>"), "{id}");
        assert_ne!(id, message_id(&from, &mail("ada@example.com", "another link")));
        assert_ne!(id, message_id(&from, &mail("grace@example.com", "a link")));
    }
}
