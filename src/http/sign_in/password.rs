//! An address and a password: signing in, and the links that lead to a password. Where this way in is switched off, none of
//! it is there.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use chrono::TimeDelta;
use http::{HeaderMap, StatusCode};
use secrecy::SecretString;
use serde::Deserialize;

use crate::data_plane::tenancy::cookie;
use crate::http::browser::{Answer, Meant, Site, Visitor, see_other, set_cookie, with_cookies};
use crate::http::mark::{Mark, Unsigned};
use crate::http::pages::{Frame, page, sign_in_page};
use crate::http::vocabulary::Path;
use crate::identity::arrive::Here;
use crate::identity::password::Tried;
use crate::identity::password_links::{Choice, Chosen, LinkFor, LinkPurpose};
use crate::identity::return_to;
use crate::identity::sessions::Asking;
use crate::kernel::ids::PasswordLinkId;
use crate::kernel::{Error, codes};

/// A browser that signed in with a password before.
const KNOWN_COOKIE: &str = "__Host-freehold-known";
const KNOWN_FOR: TimeDelta = TimeDelta::days(180);

fn here(visitor: Option<&Visitor>) -> Option<Here> {
    visitor.map(|visitor| Here { account: visitor.person.id, session: visitor.session })
}

/// An error that belongs on the page where the form was, said in words.
fn on_page(error: &Error) -> Option<(String, StatusCode)> {
    let shown = [&codes::SIGN_IN_FAILED, &codes::RATE_LIMITED, &codes::INVALID_FIELDS];
    if !shown.iter().any(|code| error.is(code)) {
        return None;
    }
    let field = error.field_errors().first().map(|field| format!("The {} {}.", field.field, field.message));
    let text = field.or_else(|| error.public_detail().map(str::to_owned))?;
    Some((text, StatusCode::from_u16(error.code().status).unwrap_or(StatusCode::BAD_REQUEST)))
}

fn with_status(mut response: Response, status: StatusCode) -> Response {
    *response.status_mut() = status;
    response
}

#[derive(Deserialize)]
pub(super) struct Enter {
    email: String,
    password: SecretString,
    #[serde(default)]
    return_to: String,
}

/// `POST /sign-in/password`
pub(super) async fn enter(
    State(site): State<Site>,
    visitor: Option<Visitor>,
    asking: Asking,
    headers: HeaderMap,
    Unsigned(mark, form): Unsigned<Enter>,
) -> Answer {
    let return_to = return_to::path_of(Some(&form.return_to));
    let tried = Tried {
        email: &form.email,
        password: form.password.clone(),
        known: cookie::value_of(&headers, KNOWN_COOKIE),
        return_to,
        browser_hash: mark.hash(),
    };
    match site.identity.password_enter(&tried, here(visitor.as_ref()), &asking).await {
        Ok(entered) => {
            let now = site.identity.cp.clock.now();
            let known = set_cookie(KNOWN_COOKIE, &entered.known, now + KNOWN_FOR, now);
            Ok(with_cookies(super::let_in(&site, &entered.let_in, &mark, return_to), [known]))
        }
        Err(error) => {
            let (wrong, status) = on_page(&error).ok_or(error)?;
            Ok(with_status(sign_in_page(&site, &mark, return_to, &form.email, Some(&wrong)), status))
        }
    }
}

#[derive(Template)]
#[template(path = "pages/password_ask.html")]
struct AskPage<'a> {
    frame: Frame,
    csrf: String,
    /// A new account; else a forgotten password.
    new: bool,
    email: &'a str,
    wrong: Option<&'a str>,
    sent: bool,
}

fn ask_page(site: &Site, mark: &Mark, new: bool, email: &str, wrong: Option<&str>, sent: bool) -> Response {
    let shown = page(&AskPage { frame: Frame::default(), csrf: mark.csrf(), new, email, wrong, sent });
    with_cookies(shown, [mark.cookie(site.identity.cp.clock.now())])
}

/// `GET /sign-in/password/new`
pub(super) async fn new(State(site): State<Site>, headers: HeaderMap) -> Answer {
    site.identity.passwords_are_on()?;
    Ok(ask_page(&site, &Mark::of(&headers, &site.identity.cp.entropy), true, "", None, false))
}

/// `GET /sign-in/password/forgotten`
pub(super) async fn forgotten(State(site): State<Site>, headers: HeaderMap) -> Answer {
    site.identity.passwords_are_on()?;
    Ok(ask_page(&site, &Mark::of(&headers, &site.identity.cp.entropy), false, "", None, false))
}

#[derive(Deserialize)]
pub(super) struct Address {
    email: String,
}

/// `POST /sign-in/password/new`
pub(super) async fn ask_new(
    State(site): State<Site>,
    asking: Asking,
    Unsigned(mark, form): Unsigned<Address>,
) -> Answer {
    ask(&site, &mark, LinkPurpose::SignUp, &form.email, &asking).await
}

/// `POST /sign-in/password/forgotten`
pub(super) async fn ask_forgotten(
    State(site): State<Site>,
    asking: Asking,
    Unsigned(mark, form): Unsigned<Address>,
) -> Answer {
    ask(&site, &mark, LinkPurpose::Reset, &form.email, &asking).await
}

async fn ask(site: &Site, mark: &Mark, purpose: LinkPurpose, email: &str, asking: &Asking) -> Answer {
    let new = purpose == LinkPurpose::SignUp;
    match site.identity.password_ask(purpose, email, None, &asking.device.address).await {
        Ok(()) => Ok(ask_page(site, mark, new, email, None, true)),
        Err(error) => {
            let (wrong, status) = on_page(&error).ok_or(error)?;
            Ok(with_status(ask_page(site, mark, new, email, Some(&wrong), false), status))
        }
    }
}

/// `POST /account/password/add`: a link to add a password, for a person who is signed in.
pub(super) async fn add(
    State(site): State<Site>,
    asking: Asking,
    Meant(visitor, form): Meant<Address>,
) -> Answer {
    let here = Here { account: visitor.person.id, session: visitor.session };
    let from = &asking.device.address;
    match site.identity.password_ask(LinkPurpose::Add, &form.email, Some(here), from).await {
        Ok(()) => Ok(page(&DonePage { frame: Frame::default(), sent: Some(&form.email) })),
        Err(error) => super::or_confirm(error, "/account"),
    }
}

#[derive(Deserialize)]
pub(super) struct Secret {
    secret: String,
}

#[derive(Template)]
#[template(path = "pages/password_choose.html")]
struct ChoosePage<'a> {
    frame: Frame,
    csrf: String,
    id: PasswordLinkId,
    secret: &'a str,
    link: &'a LinkFor,
    new: bool,
    wrong: Option<&'a str>,
}

/// `GET /sign-in/password/links/{id}`. Looking changes nothing: mailboxes open links to look at them.
pub(super) async fn link(
    State(site): State<Site>,
    Path(id): Path<PasswordLinkId>,
    Query(secret): Query<Secret>,
    headers: HeaderMap,
) -> Answer {
    let link = site.identity.password_link(id, &secret.secret).await?;
    let mark = Mark::of(&headers, &site.identity.cp.entropy);
    Ok(choose_page(&site, &mark, (id, &secret.secret), &link, None))
}

fn choose_page(
    site: &Site,
    mark: &Mark,
    (id, secret): (PasswordLinkId, &str),
    link: &LinkFor,
    wrong: Option<&str>,
) -> Response {
    let new = link.purpose == LinkPurpose::SignUp;
    let shown =
        page(&ChoosePage { frame: Frame::default(), csrf: mark.csrf(), id, secret, link, new, wrong });
    with_cookies(shown, [mark.cookie(site.identity.cp.clock.now())])
}

#[derive(Deserialize)]
pub(super) struct Chose {
    secret: String,
    password: SecretString,
    name: Option<String>,
}

#[derive(Template)]
#[template(path = "pages/password_done.html")]
struct DonePage<'a> {
    frame: Frame,
    /// A letter is on its way to this address; else the password is set.
    sent: Option<&'a str>,
}

/// `POST /sign-in/password/links/{id}`
pub(super) async fn choose(
    State(site): State<Site>,
    Path(id): Path<String>,
    visitor: Option<Visitor>,
    asking: Asking,
    Unsigned(mark, form): Unsigned<Chose>,
) -> Answer {
    let id: PasswordLinkId = id.parse().map_err(|_| Error::new(&codes::NOT_FOUND))?;
    let choice = Choice {
        link: id,
        secret: &form.secret,
        password: form.password.clone(),
        name: form.name.as_deref(),
        browser_hash: mark.hash(),
    };
    match site.identity.password_choose(&choice, here(visitor.as_ref()), &asking).await {
        Ok(Chosen::SignedUp(let_in)) => Ok(super::let_in(&site, &let_in, &mark, "/")),
        Ok(Chosen::Reset) => Ok(page(&DonePage { frame: Frame::default(), sent: None })),
        Ok(Chosen::Added) => Ok(see_other("/account")),
        Err(error) if error.is(&codes::INVALID_FIELDS) => {
            let link = site.identity.password_link(id, &form.secret).await?;
            let (wrong, status) = on_page(&error).ok_or(error)?;
            let shown = choose_page(&site, &mark, (id, &form.secret), &link, Some(&wrong));
            Ok(with_status(shown, status))
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Deserialize)]
pub(super) struct Change {
    current: SecretString,
    password: SecretString,
}

/// `POST /account/password`
pub(super) async fn change(State(site): State<Site>, Meant(visitor, form): Meant<Change>) -> Answer {
    let here = Here { account: visitor.person.id, session: visitor.session };
    site.identity.password_change(&visitor.caller(), here, (form.current, form.password)).await?;
    Ok(see_other("/account"))
}

#[derive(Deserialize)]
pub(super) struct Confirm {
    password: SecretString,
    #[serde(default)]
    return_to: String,
}

/// `POST /account/confirm/password`
pub(super) async fn confirm(
    State(site): State<Site>,
    asking: Asking,
    headers: HeaderMap,
    Meant(visitor, form): Meant<Confirm>,
) -> Answer {
    let here = Here { account: visitor.person.id, session: visitor.session };
    let mark = Mark::of(&headers, &site.identity.cp.entropy);
    let back = return_to::path_of(Some(&form.return_to));
    let let_in = site.identity.password_confirm(here, &form.password, (back, mark.hash()), &asking).await?;
    Ok(super::let_in(&site, &let_in, &mark, back))
}
