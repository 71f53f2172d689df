//! One id per request: the client's own when it is a sane one, so that a trace can begin outside.

use http::{HeaderMap, HeaderValue};

use crate::data_plane::RequestId;
use crate::kernel::Entropy;

pub const HEADER: &str = "x-request-id";
const LONGEST: usize = 64;

/// The id to use for a request with these headers.
pub fn choose(headers: &HeaderMap, entropy: &Entropy) -> RequestId {
    let sane = |text: &&str| {
        (1..=LONGEST).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    match headers.get(HEADER).and_then(|value| value.to_str().ok()).filter(sane) {
        Some(theirs) => RequestId(theirs.into()),
        None => RequestId(entropy.base32::<15>().into()),
    }
}

/// The id as an answer's header.
pub fn answer(headers: &mut HeaderMap, id: &RequestId) {
    // Letters, digits, hyphens and underscores: always a valid value.
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(HEADER, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_anything_else_replaced() {
        let entropy = Entropy::default();
        let with = |text: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_bytes(text).unwrap());
            choose(&headers, &entropy).0
        };
        assert_eq!(&*with(b"4f-A_9"), "4f-A_9");
        for bad in [&b""[..], b"a b", b"a\"b", "ä".as_bytes(), &[b'a'; 65]] {
            let id = with(bad);
            assert_eq!(id.len(), 24);
            assert_ne!(id.as_bytes(), bad);
        }
        assert_ne!(choose(&HeaderMap::new(), &entropy), choose(&HeaderMap::new(), &entropy));
    }
}
