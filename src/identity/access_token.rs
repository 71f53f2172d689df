//! Access tokens: signed words about who asks, good for ten minutes (RFC 9068). Pure: keys and time come in.
//!
//! Checked as RFC 8725 demands: one algorithm, which the token does not choose; a type that no other token of ours has; our
//! own issuer; one audience, and it is the one asked for. What the header says about where keys are is never followed.

use chrono::{DateTime, TimeDelta, Utc};
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, decode_header, encode};
use serde::{Deserialize, Serialize};

use super::signed::{self, Unread};
use crate::kernel::ids::{AccountId, SessionId, TenantId};
use crate::kernel::{Entropy, Error, Result, Role};

/// How long one is good.
pub const LIFE: TimeDelta = TimeDelta::minutes(10);
/// How far another server's clock may be ahead of ours.
const LEEWAY: TimeDelta = TimeDelta::seconds(60);
const TYPE: &str = "at+jwt";
/// Ours have about 600 characters.
const LONGEST: usize = 2_048;

/// What a token is for: one for a tenant's API opens nothing else, and the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The API of one tenant.
    Tenant,
    /// What a person asks about themselves, at the sign-in host.
    Person,
}

impl Audience {
    fn of(self, issuer: &str) -> String {
        match self {
            Self::Tenant => format!("{issuer}/api"),
            Self::Person => format!("{issuer}/oauth/userinfo"),
        }
    }
}

/// What a new token says.
#[derive(Clone, Debug)]
pub struct Says<'a> {
    pub issuer: &'a str,
    pub client: &'a str,
    pub account: AccountId,
    pub session: SessionId,
    /// The tenant it is for, and the role there now. For people to read: the seat decides, at each request.
    pub tenant: Option<(TenantId, Role)>,
}

/// What a good token said. Whether the session and the seat still are is for others to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub account: AccountId,
    pub session: SessionId,
    pub tenant: Option<TenantId>,
    pub expires_at: DateTime<Utc>,
    pub kid: String,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    /// One, not a list: a token for two readers is one that either may show to the other.
    aud: String,
    sub: AccountId,
    sid: SessionId,
    client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<TenantId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    iat: i64,
    exp: i64,
    jti: String,
}

/// Why a token is not believed. For tests and the log; who sent it is told "no".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("not a signed token")]
    Malformed,
    #[error("another algorithm")]
    Algorithm,
    #[error("another type of token")]
    Type,
    #[error("a header that is not understood")]
    Header,
    #[error("signed by no key of ours")]
    Key,
    #[error("the signature is wrong")]
    Signature,
    #[error("from another issuer")]
    Issuer,
    #[error("for another audience")]
    Audience,
    #[error("expired")]
    Expired,
    #[error("from the future, or for too long")]
    Time,
}

impl From<Unread> for Refused {
    fn from(why: Unread) -> Self {
        match why {
            Unread::Malformed => Self::Malformed,
            Unread::Algorithm => Self::Algorithm,
            Unread::Signature => Self::Signature,
        }
    }
}

/// A key to sign with.
pub struct Signer {
    pub kid: String,
    pub key: EncodingKey,
}

/// A new token.
pub fn sign(says: &Says<'_>, signer: &Signer, entropy: &Entropy, now: DateTime<Utc>) -> Result<String> {
    let audience = if says.tenant.is_some() { Audience::Tenant } else { Audience::Person };
    let claims = Claims {
        iss: says.issuer.to_owned(),
        aud: audience.of(says.issuer),
        sub: says.account,
        sid: says.session,
        client_id: says.client.to_owned(),
        tenant: says.tenant.map(|(tenant, _)| tenant),
        role: says.tenant.map(|(_, role)| role),
        iat: now.timestamp(),
        exp: (now + LIFE).timestamp(),
        jti: BASE64URL_NOPAD.encode(&entropy.bytes::<16>()),
    };
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(signer.kid.clone());
    encode(&header, &claims, &signer.key).map_err(Error::internal)
}

/// The key that a token names, once its header is as ours are.
///
/// # Errors
/// The first reason found.
pub fn kid_of(token: &str) -> Result<String, Refused> {
    if token.len() > LONGEST {
        return Err(Refused::Malformed);
    }
    let header = decode_header(token).map_err(|_| Refused::Malformed)?;
    if header.alg != Algorithm::EdDSA {
        return Err(Refused::Algorithm);
    }
    if header.typ.as_deref() != Some(TYPE) {
        return Err(Refused::Type);
    }
    let strange = header.crit.is_some()
        || header.jku.is_some()
        || header.jwk.is_some()
        || header.x5u.is_some()
        || header.x5c.is_some();
    if strange {
        return Err(Refused::Header);
    }
    header.kid.filter(|kid| kid.len() <= 64).ok_or(Refused::Key)
}

/// Checks the signature and everything that is said, by the key of [`kid_of`].
///
/// # Errors
/// The first reason found.
pub fn check(
    token: &str,
    kid: &str,
    key: &DecodingKey,
    issuer: &str,
    audience: Audience,
    now: DateTime<Utc>,
) -> Result<Said, Refused> {
    let claims: Claims = signed::claims(token, key, Algorithm::EdDSA)?;
    if claims.iss != issuer {
        return Err(Refused::Issuer);
    }
    if claims.aud != audience.of(issuer) || claims.tenant.is_some() != (audience == Audience::Tenant) {
        return Err(Refused::Audience);
    }
    let seconds = now.timestamp();
    if claims.exp <= seconds {
        return Err(Refused::Expired);
    }
    let too_long = claims.exp.saturating_sub(claims.iat) > LIFE.num_seconds();
    if claims.iat > seconds.saturating_add(LEEWAY.num_seconds()) || too_long {
        return Err(Refused::Time);
    }
    Ok(Said {
        account: claims.sub,
        session: claims.sid,
        tenant: claims.tenant,
        expires_at: DateTime::from_timestamp(claims.exp, 0).ok_or(Refused::Time)?,
        kid: kid.to_owned(),
    })
}
