//! "Is it you?": the ways in which a person can sign in afresh before something grave, and back to where they were.

use askama::Template;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::{Frame, Pages, page};
use crate::http::browser::{Answer, Visitor};
use crate::identity::accounts::link_list;
use crate::identity::oidc::settings::Registration;
use crate::identity::password::{PROVIDER, password_email};
use crate::identity::return_to::path_of;

#[derive(Template)]
#[template(path = "pages/confirm.html")]
struct Page<'a> {
    frame: Frame,
    who: String,
    csrf: String,
    return_to: &'a str,
    /// Those that the account is linked to.
    providers: Vec<&'a Registration>,
    password: bool,
}

#[derive(Deserialize)]
pub struct Back {
    return_to: Option<String>,
}

/// `GET /account/confirm`
pub async fn show(visitor: Visitor, State(pages): State<Pages>, Query(back): Query<Back>) -> Answer {
    let identity = &pages.site.identity;
    let mut conn = identity.cp.db.acquire().await?;
    let links = link_list(&mut conn, visitor.person.id).await?;
    let password = identity.passwords_are_on().is_ok()
        && password_email(&mut conn, visitor.person.id).await?.is_some()
        && links.iter().any(|link| link.provider == PROVIDER);
    let linked = |one: &&Registration| links.iter().any(|link| link.issuer == one.issuer);
    Ok(page(&Page {
        frame: Frame::default(),
        who: visitor.person.name.to_string(),
        csrf: visitor.csrf(),
        return_to: path_of(Some(back.return_to.as_deref().unwrap_or("/account"))),
        providers: identity.providers.registrations().filter(linked).collect(),
        password,
    }))
}
