//! `/device`: the page where a person lets a terminal in.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use chrono::{DateTime, Utc};
use http::StatusCode;
use serde::Deserialize;

use crate::http::browser::{Answer, AnyVisitor, MeantByAny, Site, Visitor};
use crate::http::pages::{Frame, page};
use crate::identity::device::Approver;
use crate::kernel::{Error, codes};

#[derive(Template)]
#[template(path = "pages/device.html")]
struct DevicePage<'a> {
    frame: Frame,
    person: &'a str,
    stage: Stage<'a>,
}

enum Stage<'a> {
    Type { wrong: Option<&'a str> },
    Ask { client_name: &'a str, since: String, user_code: &'a str, csrf: String },
    Done { yes: bool },
}

#[derive(Deserialize)]
pub(super) struct Code {
    user_code: Option<String>,
}

/// `GET /device`
pub(super) async fn ask(
    State(site): State<Site>,
    AnyVisitor(visitor): AnyVisitor,
    query: Result<Query<Code>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let code = query.ok().and_then(|Query(query)| query.user_code).filter(|code| !code.trim().is_empty());
    let Some(code) = code else { return Ok(show(&visitor, Stage::Type { wrong: None })) };
    match site.identity.device_ask(approver(&visitor), &code).await {
        Ok(asked) => {
            let (client_name, since) = (asked.client_name.as_str(), minute(asked.created_at));
            let stage = Stage::Ask { client_name, since, user_code: &asked.user_code, csrf: visitor.csrf() };
            Ok(show(&visitor, stage))
        }
        Err(error) => wrong(&visitor, error),
    }
}

#[derive(Deserialize)]
pub(super) struct Said {
    user_code: String,
    answer: String,
}

/// `POST /device`. Anything but a plain yes is a no. The terminal's session begins as this browser's did, and enters what
/// that one may.
pub(super) async fn answer(State(site): State<Site>, MeantByAny(visitor, said): MeantByAny<Said>) -> Answer {
    let yes = said.answer == "yes";
    let request_id = visitor.caller().request_id;
    match site.identity.device_answer(approver(&visitor), &said.user_code, yes, request_id).await {
        Ok(()) => Ok(show(&visitor, Stage::Done { yes })),
        Err(error) => wrong(&visitor, error),
    }
}

fn approver(visitor: &Visitor) -> Approver {
    Approver { account: visitor.person.id, session: visitor.session }
}

/// A code that cannot be: the same page again, with what is wrong.
fn wrong(visitor: &Visitor, error: Error) -> Answer {
    if !error.is(&codes::NOT_FOUND) && !error.is(&codes::RATE_LIMITED) {
        return Err(error.into());
    }
    let wrong = error.public_detail();
    let mut response = show(visitor, Stage::Type { wrong });
    *response.status_mut() = StatusCode::from_u16(error.code().status).unwrap_or(StatusCode::NOT_FOUND);
    Ok(response)
}

fn show(visitor: &Visitor, stage: Stage<'_>) -> Response {
    page(&DevicePage { frame: Frame::default(), person: &visitor.person.name, stage })
}

fn minute(at: DateTime<Utc>) -> String {
    at.format("%-d %b %Y, %H:%M:%S UTC").to_string()
}
