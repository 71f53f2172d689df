//! What a signed token says, once its signature is right. When it is believed, and by whom, is for its reader to decide.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::de::DeserializeOwned;

/// Why a token was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    Malformed,
    Algorithm,
    Signature,
}

/// The claims of a token that this key signed in this way, and none other. Nothing that they say is checked: not when the
/// token is good, nor for whom.
pub(super) fn claims<T: DeserializeOwned>(
    token: &str,
    key: &DecodingKey,
    algorithm: Algorithm,
) -> Result<T, Unread> {
    let mut signature_only = Validation::new(algorithm);
    signature_only.required_spec_claims.clear();
    (signature_only.validate_exp, signature_only.validate_aud) = (false, false);
    decode::<T>(token, key, &signature_only).map(|read| read.claims).map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature => Unread::Signature,
        ErrorKind::InvalidAlgorithm => Unread::Algorithm,
        _ => Unread::Malformed,
    })
}
