//! The second factor, asked for after the first and before there is a session.

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::http::browser::{Answer, AnyVisitor, Site, see_other, session_cookie, with_cookies};
use crate::http::mark::{Mark, Unsigned};
use crate::http::pages::{Frame, page};
use crate::identity::arrive::Here;
use crate::identity::sessions::Asking;
use crate::kernel::codes;

#[derive(Template)]
#[template(path = "pages/second_step.html")]
struct Page<'a> {
    frame: Frame,
    csrf: String,
    wrong: Option<&'a str>,
}

fn show(site: &Site, mark: &Mark, wrong: Option<&str>) -> Response {
    let shown = page(&Page { frame: Frame::default(), csrf: mark.csrf(), wrong });
    with_cookies(shown, [mark.cookie(site.identity.cp.clock.now())])
}

/// `GET /sign-in/second-step`
pub(super) async fn form(State(site): State<Site>, headers: HeaderMap) -> Answer {
    let mark = Mark::of(&headers, &site.identity.cp.entropy);
    if site.identity.second_step_waits(&mark.hash()).await? {
        return Ok(show(&site, &mark, None));
    }
    Ok(see_other("/sign-in"))
}

#[derive(Deserialize)]
pub(super) struct Code {
    code: String,
}

/// `POST /sign-in/second-step`
pub(super) async fn check(
    State(site): State<Site>,
    visitor: Option<AnyVisitor>,
    asking: Asking,
    Unsigned(mark, form): Unsigned<Code>,
) -> Answer {
    let here =
        visitor.map(|AnyVisitor(visitor)| Here { account: visitor.person.id, session: visitor.session });
    match site.identity.second_step(&mark.hash(), &form.code, here, &asking).await {
        Ok((started, return_to)) => {
            let now = site.identity.cp.clock.now();
            Ok(with_cookies(see_other(&return_to), [session_cookie(&started, now)]))
        }
        Err(error) => {
            let again = error.is(&codes::SIGN_IN_FAILED) || error.is(&codes::RATE_LIMITED);
            if !again || !site.identity.second_step_waits(&mark.hash()).await? {
                return Err(error.into());
            }
            let mut shown = show(&site, &mark, error.public_detail());
            *shown.status_mut() =
                StatusCode::from_u16(error.code().status).unwrap_or(StatusCode::BAD_REQUEST);
            Ok(shown)
        }
    }
}
