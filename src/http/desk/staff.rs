//! Who is on duty: an operator's browser, and forms that it was meant to send.

use axum::RequestExt;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::Response;
use http::HeaderMap;
use http::request::Parts;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;

use super::COOKIE;
use crate::control_plane::audit::Caller;
use crate::data_plane::tenancy::cookie;
use crate::http::browser::{Site, is_base, meant_form, read_form, request_id, see_other, with_query};
use crate::http::pages::failure;
use crate::identity::operators::{OnDuty, OperatorRole, actor_of, operator_of_session};
use crate::identity::return_to;
use crate::kernel::credentials::{self, KeyHash, KeyKind};
use crate::kernel::{Error, Result, codes};

/// An operator who is signed in.
pub struct Staff {
    pub who: OnDuty,
    token: SecretString,
    request_id: Option<String>,
}

/// The token of an operator's browser, with the hash to look it up by.
pub fn token_of(headers: &HeaderMap) -> Option<(&str, KeyHash)> {
    let token = cookie::value_of(headers, COOKIE)?;
    credentials::parse(KeyKind::OperatorSession, token).map(|hash| (token, hash))
}

impl Staff {
    /// For the hidden field `csrf` of every form.
    pub fn csrf(&self) -> String {
        cookie::csrf_proof(self.token.expose_secret())
    }

    /// Who acts, for the audit log.
    pub fn caller(&self) -> Caller {
        Caller { actor: actor_of(self.who.id), request_id: self.request_id.clone() }
    }

    /// Whether they may change things.
    pub fn works(&self) -> bool {
        self.who.role >= OperatorRole::Operator
    }

    /// Whether they may correct money.
    pub fn corrects(&self) -> bool {
        self.who.role >= OperatorRole::Finance
    }

    async fn of(parts: &Parts, site: &Site) -> Result<Option<Self>> {
        let Some((token, hash)) = token_of(&parts.headers) else { return Ok(None) };
        if !is_base(&parts.headers, &parts.uri, &site.base_domain) {
            return Ok(None);
        }
        let cp = &site.identity.cp;
        let mut conn = cp.db.acquire().await?;
        let found = operator_of_session(&mut conn, &hash, cp.clock.now()).await?;
        let (token, request_id) = (SecretString::from(token.to_owned()), request_id(parts));
        Ok(found.map(|who| Self { who, token, request_id }))
    }
}

impl FromRequestParts<Site> for Staff {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, Response> {
        match Self::of(parts, site).await {
            Ok(Some(staff)) => Ok(staff),
            Ok(None) if parts.method.is_safe() => {
                let wanted = return_to::path_of(parts.uri.path_and_query().map(|path| path.as_str()));
                Err(see_other(&with_query("/operator/sign-in", &[("return_to", wanted)])))
            }
            Ok(None) => Err(failure(Error::new(&codes::SIGN_IN_REQUIRED))),
            Err(error) => Err(failure(error)),
        }
    }
}

/// A form by which an operator changes something: of a page of ours, with this operator's proof, by one whose role allows it.
pub struct Change<T>(pub Staff, pub T);

impl<T: DeserializeOwned> FromRequest<Site> for Change<T> {
    type Rejection = Response;

    async fn from_request(request: Request, site: &Site) -> Result<Self, Response> {
        let (staff, value) = changed(request, site, OperatorRole::Operator).await?;
        Ok(Self(staff, value))
    }
}

/// The same, by one who may correct money.
pub struct MoneyChange<T>(pub Staff, pub T);

impl<T: DeserializeOwned> FromRequest<Site> for MoneyChange<T> {
    type Rejection = Response;

    async fn from_request(request: Request, site: &Site) -> Result<Self, Response> {
        let (staff, value) = changed(request, site, OperatorRole::Finance).await?;
        Ok(Self(staff, value))
    }
}

async fn changed<T: DeserializeOwned>(
    mut request: Request,
    site: &Site,
    needed: OperatorRole,
) -> Result<(Staff, T), Response> {
    let headers = request.headers().clone();
    let staff = request.extract_parts_with_state::<Staff, Site>(site).await?;
    let read = async {
        staff.who.role.require(needed)?;
        read_form::<T>(meant_form(&headers, request, staff.token.expose_secret()).await?).await
    };
    let value = read.await.map_err(failure)?;
    Ok((staff, value))
}
