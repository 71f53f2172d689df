//! Mail in `freehold dev` goes nowhere: it is kept in memory and shown at `/dev/mail`. Only this command knows the page,
//! so no other server has it.

use std::collections::VecDeque;
use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use crate::http::pages::{Frame, page};
use crate::identity::letters::{Carrier, Mail};
use crate::kernel::Clock;

/// Where it is.
pub const PATH: &str = "/dev/mail";
/// Older mails are forgotten.
const MOST: usize = 100;

/// The mails so far, newest first. Cheap to clone.
#[derive(Clone, Default)]
pub struct Mailbox(Arc<Mutex<Mails>>);

type Mails = VecDeque<(DateTime<Utc>, Mail)>;

#[derive(Template)]
#[template(path = "pages/mailbox.html")]
struct Page {
    frame: Frame,
    mails: Vec<Shown>,
}

struct Shown {
    to: String,
    at: String,
    subject: String,
    text: String,
    /// The first address in the text, to click on.
    link: Option<String>,
}

impl Mailbox {
    /// Takes every mail, and sends none.
    pub fn carrier(&self) -> Carrier {
        let mailbox = self.clone();
        Arc::new(move |mail| {
            mailbox.put(Clock::System.now(), mail);
            Box::pin(std::future::ready(Ok(())))
        })
    }

    fn put(&self, at: DateTime<Utc>, mail: Mail) {
        let mut mails = self.0.lock();
        mails.push_front((at, mail));
        mails.truncate(MOST);
    }

    /// The page.
    pub fn routes(&self) -> Router {
        Router::new().route(PATH, get(show)).with_state(self.clone())
    }
}

async fn show(State(mailbox): State<Mailbox>) -> Response {
    let mails = mailbox.0.lock().iter().map(|(at, mail)| shown(*at, mail)).collect();
    page(&Page { frame: Frame::default(), mails })
}

fn shown(at: DateTime<Utc>, mail: &Mail) -> Shown {
    let is_link = |word: &&str| word.starts_with("http://") || word.starts_with("https://");
    Shown {
        to: mail.to.clone(),
        at: at.format("%H:%M:%S UTC").to_string(),
        subject: mail.subject.clone(),
        text: mail.text.clone(),
        link: mail.text.split_whitespace().find(is_link).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(subject: String) -> Mail {
        let text = "Accept:\nhttp://localhost:1/invitations/x?secret=y\n\nBye".to_owned();
        Mail { to: "grace@example.com".to_owned(), subject, text, html: String::new() }
    }

    #[test]
    fn the_newest_is_first_and_the_oldest_forgotten() {
        let mailbox = Mailbox::default();
        for at in 0..MOST + 5 {
            mailbox.put(DateTime::UNIX_EPOCH, mail(at.to_string()));
        }
        let mails = mailbox.0.lock();
        assert_eq!(mails.len(), MOST);
        assert_eq!(mails[0].1.subject, (MOST + 4).to_string());
    }

    #[test]
    fn the_link_is_found() {
        let shown = shown(DateTime::UNIX_EPOCH, &mail("Hello".to_owned()));
        assert_eq!(shown.link.as_deref(), Some("http://localhost:1/invitations/x?secret=y"));
    }
}
