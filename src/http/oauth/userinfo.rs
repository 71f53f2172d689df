//! `GET /oauth/userinfo`: who I am, and where I belong.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};

use super::Oauth;
use super::answer::unkept;
use crate::data_plane::tenancy::decide::bearer;
use crate::identity::access_token::Audience;
use crate::identity::userinfo::{UserInfo, userinfo};
use crate::kernel::{Error, Result, codes};

pub async fn get(State(oauth): State<Oauth>, headers: HeaderMap) -> Response {
    match ask(&oauth, &headers).await {
        Ok(info) => unkept(info),
        Err(error) => {
            let refused = error.is(&codes::UNAUTHENTICATED);
            let mut response = error.into_response();
            if refused {
                let how = HeaderValue::from_static("Bearer realm=\"freehold\", error=\"invalid_token\"");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, how);
            }
            response
        }
    }
}

async fn ask(oauth: &Oauth, headers: &HeaderMap) -> Result<UserInfo> {
    let refused = || Error::new(&codes::UNAUTHENTICATED);
    let token = bearer(headers).filter(|token| token.starts_with("eyJ")).ok_or_else(refused)?;
    let said = oauth.identity.keyring.verify(token, Audience::Person).await?.ok_or_else(refused)?;
    let mut conn = oauth.identity.cp.db.acquire().await?;
    userinfo(&mut conn, said.account, said.session, oauth.identity.cp.clock.now()).await
}
