//! A person's second factor: set up, confirmed, renewed, turned off.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;

use super::account::{Nothing, day};
use super::qr::Qr;
use super::{Frame, Pages, page};
use crate::http::browser::{Answer, Meant, Visitor, see_other};
use crate::http::sign_in::or_confirm;
use crate::identity::arrive::Here;
use crate::identity::second_factor::{Enrolment, second_factor_get};
use crate::kernel::{Error, codes};

const HERE: &str = "/account/second-factor";

#[derive(Template)]
#[template(path = "pages/second_factor.html")]
struct Page<'a> {
    frame: Frame,
    who: String,
    csrf: String,
    stage: Stage<'a>,
    wrong: Option<&'a str>,
}

enum Stage<'a> {
    Off,
    Begun { enrolment: &'a Enrolment, qr: &'a Qr },
    On { since: String, codes_left: i64 },
    Codes { codes: &'a [String] },
}

/// `GET /account/second-factor`
pub async fn show(visitor: Visitor, State(pages): State<Pages>) -> Answer {
    look(&pages, &visitor, None).await
}

async fn look(pages: &Pages, visitor: &Visitor, wrong: Option<&Error>) -> Answer {
    let identity = &pages.site.identity;
    let mut conn = identity.cp.db.acquire().await?;
    let state = second_factor_get(&mut conn, visitor.person.id).await?;
    drop(conn);
    let words = wrong.and_then(Error::public_detail);
    let mut shown = match (state.since, state.begun) {
        (Some(since), _) => {
            render(visitor, Stage::On { since: day(since), codes_left: state.codes_left }, words)
        }
        (None, true) => {
            let enrolment = identity.second_factor_enrolment(visitor.person.id).await?;
            let qr = Qr::of(&enrolment.uri)?;
            render(visitor, Stage::Begun { enrolment: &enrolment, qr: &qr }, words)
        }
        (None, false) => render(visitor, Stage::Off, words),
    };
    if let Some(error) = wrong {
        *shown.status_mut() = StatusCode::from_u16(error.code().status).unwrap_or(StatusCode::BAD_REQUEST);
    }
    Ok(shown)
}

fn render(visitor: &Visitor, stage: Stage<'_>, wrong: Option<&str>) -> Response {
    let (who, csrf) = (visitor.person.name.to_string(), visitor.csrf());
    page(&Page { frame: Frame::default(), who, csrf, stage, wrong })
}

fn here(visitor: &Visitor) -> Here {
    Here { account: visitor.person.id, session: visitor.session }
}

/// A wrong code, or too many: the same page again, with what is wrong.
async fn again(pages: &Pages, visitor: &Visitor, error: Error) -> Answer {
    match error.is(&codes::SIGN_IN_FAILED) || error.is(&codes::RATE_LIMITED) {
        true => look(pages, visitor, Some(&error)).await,
        false => Err(error.into()),
    }
}

/// `POST /account/second-factor/begin`
pub async fn begin(State(pages): State<Pages>, Meant(visitor, _): Meant<Nothing>) -> Answer {
    match pages.site.identity.second_factor_begin(here(&visitor)).await {
        Ok(()) => Ok(see_other(HERE)),
        Err(error) => or_confirm(error, HERE),
    }
}

#[derive(Deserialize)]
pub struct Code {
    code: String,
}

/// `POST /account/second-factor/confirm`
pub async fn confirm(State(pages): State<Pages>, Meant(visitor, form): Meant<Code>) -> Answer {
    let identity = &pages.site.identity;
    match identity.second_factor_confirm(&visitor.caller(), here(&visitor), &form.code).await {
        Ok(codes) => Ok(render(&visitor, Stage::Codes { codes: &codes }, None)),
        Err(error) => again(&pages, &visitor, error).await,
    }
}

/// `POST /account/second-factor/codes`
pub async fn renew(State(pages): State<Pages>, Meant(visitor, form): Meant<Code>) -> Answer {
    let identity = &pages.site.identity;
    match identity.recovery_codes_renew(&visitor.caller(), here(&visitor), &form.code).await {
        Ok(codes) => Ok(render(&visitor, Stage::Codes { codes: &codes }, None)),
        Err(error) => again(&pages, &visitor, error).await,
    }
}

/// `POST /account/second-factor/off`
pub async fn off(State(pages): State<Pages>, Meant(visitor, form): Meant<Code>) -> Answer {
    match pages.site.identity.second_factor_off(&visitor.caller(), here(&visitor), &form.code).await {
        Ok(()) => Ok(see_other("/account")),
        Err(error) => again(&pages, &visitor, error).await,
    }
}
