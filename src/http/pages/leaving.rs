//! What is kept about a person, to take along; and the end of an account.

use askama::Template;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures_util::stream::try_unfold;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;

use super::account::Nothing;
use super::{Frame, Pages, page};
use crate::data_plane::tenancy::cookie::SESSION_COOKIE;
use crate::http::browser::{Answer, Meant, Visitor, drop_cookie, with_cookies};
use crate::http::sign_in::or_confirm;
use crate::identity::accounts::account_by_id;
use crate::identity::arrive::Here;
use crate::kernel::{Error, codes};

/// `POST /account/export`: one JSON document, sent as it is read.
pub async fn export(State(pages): State<Pages>, Meant(visitor, _): Meant<Nothing>) -> Answer {
    let here = Here { account: visitor.person.id, session: visitor.session };
    let begun = match pages.site.identity.account_export(&visitor.caller(), here).await {
        Ok(begun) => begun,
        Err(error) => return or_confirm(error, "/account"),
    };
    let db = pages.site.identity.cp.db.clone();
    let text = try_unfold((begun, db), |(mut begun, db)| async move {
        // A connection for each piece: a slow reader holds none.
        let mut conn = db.acquire().await?;
        let piece = begun.next(&mut conn).await?;
        drop(conn);
        Ok::<_, Error>(piece.map(|piece| (piece, (begun, db))))
    });
    let mut response = Response::new(Body::from_stream(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let file = HeaderValue::from_static("attachment; filename=\"account.json\"");
    headers.insert(header::CONTENT_DISPOSITION, file);
    Ok(response)
}

#[derive(Template)]
#[template(path = "pages/leave.html")]
struct Page<'a> {
    frame: Frame,
    who: String,
    csrf: String,
    /// What has to be typed.
    address: String,
    wrong: Option<&'a str>,
    hint: Option<&'a str>,
}

/// `GET /account/delete`
pub async fn ask(visitor: Visitor, State(pages): State<Pages>) -> Answer {
    show(&pages, &visitor, None).await
}

async fn show(pages: &Pages, visitor: &Visitor, refused: Option<&Error>) -> Answer {
    let mut conn = pages.site.identity.cp.db.acquire().await?;
    let account = account_by_id(&mut conn, visitor.person.id).await?;
    let field = refused.and_then(|error| error.field_errors().first()).map(|field| field.message.as_str());
    let mut shown = page(&Page {
        frame: Frame::default(),
        who: account.name.clone(),
        csrf: visitor.csrf(),
        address: account.email.unwrap_or(account.name),
        wrong: field.or_else(|| refused.and_then(Error::public_detail)),
        hint: refused.and_then(Error::public_hint),
    });
    if let Some(error) = refused {
        *shown.status_mut() = StatusCode::from_u16(error.code().status).unwrap_or(StatusCode::BAD_REQUEST);
    }
    Ok(shown)
}

#[derive(Deserialize)]
pub struct Typed {
    address: String,
}

#[derive(Template)]
#[template(path = "pages/left.html")]
struct Left {
    frame: Frame,
}

/// `POST /account/delete`
pub async fn leave(State(pages): State<Pages>, Meant(visitor, form): Meant<Typed>) -> Answer {
    let here = Here { account: visitor.person.id, session: visitor.session };
    match pages.site.identity.account_erase(&visitor.caller(), here, &form.address).await {
        Ok(()) => Ok(with_cookies(page(&Left { frame: Frame::default() }), [drop_cookie(SESSION_COOKIE)])),
        Err(error) if error.is(&codes::INVALID_FIELDS) || error.is(&codes::STATE_CONFLICT) => {
            show(&pages, &visitor, Some(&error)).await
        }
        Err(error) => or_confirm(error, "/account/delete"),
    }
}
