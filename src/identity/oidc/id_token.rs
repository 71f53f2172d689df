//! Is this ID token the provider's word about this sign-in? Pure: keys and time come in, a verdict comes out.
//!
//! OpenID Connect Core 1.0 §3.1.3.7 and RFC 8725. The keys are the provider's published ones and no others: what the
//! token's header says about where keys are (`jku`, `x5u`, `jwk`) is never read.

use chrono::{DateTime, Utc};
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, decode_header};
use serde::{Deserialize, Deserializer};

use crate::identity::signed::{self, Unread};

/// Signatures that are believed: by a private key that only the provider has. No HMAC, whose key would be one we hold.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// How far the provider's clock may be from ours, in seconds.
const LEEWAY: i64 = 60;
const LONGEST: usize = 16 * 1024;
const LONGEST_SUBJECT: usize = 255;

/// What the token has to say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub issuer: &'a str,
    pub client_id: &'a str,
    pub nonce: &'a str,
    /// The person was to prove who they are no earlier than this, in seconds since 1970. Believed of a provider that
    /// does not say when they did: it was asked for.
    pub again_since: Option<i64>,
    pub now: DateTime<Utc>,
}

/// What it said. Only what is used.
#[derive(Clone, Debug, Deserialize)]
pub struct Claims {
    iss: String,
    pub sub: String,
    aud: Audience,
    azp: Option<String>,
    exp: i64,
    iat: i64,
    nbf: Option<i64>,
    nonce: Option<String>,
    auth_time: Option<i64>,
    pub name: Option<String>,
    pub email: Option<String>,
    #[serde(default, deserialize_with = "truth")]
    pub email_verified: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Some providers write `"true"`. Anything else is no.
fn truth<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(value == true || value == "true")
}

/// Why a token is not believed. For the log; the person is told that the sign-in did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("not a signed token")]
    Malformed,
    #[error("signed in a way that is not believed")]
    Algorithm,
    #[error("signed by a key that the provider has not published")]
    UnknownKey,
    #[error("the signature is wrong")]
    Signature,
    #[error("from another issuer")]
    Issuer,
    #[error("for another audience, or for more than us")]
    Audience,
    #[error("for another sign-in")]
    Nonce,
    #[error("expired")]
    Expired,
    #[error("the person did not prove who they are again")]
    Stale,
    #[error("from the future; do the clocks agree?")]
    Future,
    #[error("about nobody")]
    Subject,
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

/// Checks everything.
///
/// # Errors
/// The first reason found. After [`Refused::UnknownKey`] newer keys are worth a look.
pub fn check(token: &str, keys: &JwkSet, expected: &Expected<'_>) -> Result<Claims, Refused> {
    if token.len() > LONGEST {
        return Err(Refused::Malformed);
    }
    let header = decode_header(token).map_err(|_| Refused::Malformed)?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(Refused::Algorithm);
    }
    // An extension that must be understood, and is not.
    if header.crit.is_some() {
        return Err(Refused::Malformed);
    }
    let key = key_for(header.alg, header.kid.as_deref(), keys)?;
    let claims: Claims = signed::claims(token, &key, header.alg)?;
    claims.agree(expected)?;
    Ok(claims)
}

impl Claims {
    fn agree(&self, expected: &Expected<'_>) -> Result<(), Refused> {
        if self.iss != expected.issuer {
            return Err(Refused::Issuer);
        }
        let for_us_alone = match &self.aud {
            Audience::One(one) => one == expected.client_id,
            Audience::Many(many) => matches!(&many[..], [one] if one == expected.client_id),
        };
        if !for_us_alone || self.azp.as_ref().is_some_and(|azp| azp != expected.client_id) {
            return Err(Refused::Audience);
        }
        let nonce = self.nonce.as_deref().unwrap_or_default();
        if aws_lc_rs::constant_time::verify_slices_are_equal(nonce.as_bytes(), expected.nonce.as_bytes())
            .is_err()
        {
            return Err(Refused::Nonce);
        }
        let now = expected.now.timestamp();
        if self.exp <= now.saturating_sub(LEEWAY) {
            return Err(Refused::Expired);
        }
        let soon = now.saturating_add(LEEWAY);
        if self.iat > soon || self.nbf.is_some_and(|nbf| nbf > soon) {
            return Err(Refused::Future);
        }
        if let (Some(since), Some(proven)) = (expected.again_since, self.auth_time)
            && proven < since.saturating_sub(LEEWAY)
        {
            return Err(Refused::Stale);
        }
        let strange = self.sub.chars().any(char::is_control);
        if self.sub.is_empty() || self.sub.len() > LONGEST_SUBJECT || strange {
            return Err(Refused::Subject);
        }
        Ok(())
    }
}

/// The published key that this token names, or the only one that fits when it names none.
fn key_for(algorithm: Algorithm, kid: Option<&str>, keys: &JwkSet) -> Result<DecodingKey, Refused> {
    let mut fitting = keys.keys.iter().filter(|key| fits(key, algorithm)).filter(|key| match kid {
        Some(kid) => key.common.key_id.as_deref() == Some(kid),
        None => true,
    });
    match (fitting.next(), fitting.next()) {
        (Some(key), None) => DecodingKey::from_jwk(key).map_err(|_| Refused::UnknownKey),
        _ => Err(Refused::UnknownKey),
    }
}

fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let family = match &key.algorithm {
        AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa,
        AlgorithmParameters::EllipticCurve(_) => AlgorithmFamily::Ec,
        AlgorithmParameters::OctetKeyPair(_) => AlgorithmFamily::Ed,
        _ => return false,
    };
    let said = key.common.key_algorithm.and_then(|said| said.to_string().parse::<Algorithm>().ok());
    family == algorithm.family()
        && said.is_none_or(|said| said == algorithm)
        && !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption))
}
