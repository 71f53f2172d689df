//! What a link of an audit chain covers. Pure.
//!
//! ```text
//! digest(line)  = SHA-256("freehold audit v1" ‖ every field, each with its length)
//! hash(line n)  = SHA-256(hash(line n-1) ‖ n as 8 bytes ‖ digest(line n))       hash(0) = 32 zeros
//! ```

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::kernel::ids::{AccountId, AuditId, TenantId};
use crate::kernel::secret::sha256;

/// What the first line of a chain follows.
pub const ZERO: [u8; 32] = [0; 32];
/// The chain of what concerns neither a tenant nor one person.
pub const PLATFORM: Uuid = Uuid::nil();

/// The chain that a line belongs to: its tenant's; the person's who acts, when it concerns no tenant; the platform's.
pub fn chain_of(tenant: Option<TenantId>, actor: &str) -> Uuid {
    let person = || actor.parse::<AccountId>().ok().map(|account| account.0);
    tenant.map(|tenant| tenant.0).or_else(person).unwrap_or(PLATFORM)
}

/// A line, as its digest sees it.
pub struct Content<'a> {
    pub id: AuditId,
    pub at: DateTime<Utc>,
    pub chain: Uuid,
    pub tenant: Option<TenantId>,
    pub actor: &'a str,
    pub action: &'a str,
    pub subject: &'a str,
    pub detail: &'a Value,
    pub request_id: Option<&'a str>,
    pub personal: Option<&'a [u8]>,
}

impl Content<'_> {
    pub fn digest(&self) -> [u8; 32] {
        let mut text = String::new();
        canonical(self.detail, &mut text);
        let tenant = self.tenant.map(|tenant| *tenant.0.as_bytes());
        let parts: [Option<&[u8]>; 10] = [
            Some(self.id.0.as_bytes()),
            Some(&self.at.timestamp_micros().to_be_bytes()),
            Some(self.chain.as_bytes()),
            tenant.as_ref().map(<[u8; 16]>::as_slice),
            Some(self.actor.as_bytes()),
            Some(self.action.as_bytes()),
            Some(self.subject.as_bytes()),
            Some(text.as_bytes()),
            self.request_id.map(str::as_bytes),
            self.personal,
        ];
        digest_of(b"freehold audit v1", &parts)
    }
}

/// What a line holds of its personal part: it tells nothing of it, and fits no other.
pub fn commitment(salt: &[u8], personal: &Value) -> [u8; 32] {
    let mut text = String::new();
    canonical(personal, &mut text);
    digest_of(b"freehold audit personal v1", &[Some(salt), Some(text.as_bytes())])
}

/// The hash of line `seq`, after `before`. The statement that writes a line computes the same.
pub fn link(before: &[u8; 32], seq: i64, digest: &[u8; 32]) -> [u8; 32] {
    sha256(&[&before[..], &seq.to_be_bytes(), digest].concat())
}

/// Each part says whether it is there and how long it is: no two lists of parts give the same bytes.
fn digest_of(what: &[u8], parts: &[Option<&[u8]>]) -> [u8; 32] {
    let mut bytes = what.to_vec();
    for part in parts {
        match part {
            None => bytes.push(0),
            Some(part) => {
                bytes.push(1);
                bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
                bytes.extend_from_slice(part);
            }
        }
    }
    sha256(&bytes)
}

/// JSON with its keys in order and nothing between: the same text for what the database gives back in an order of its own.
fn canonical(value: &Value, into: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            into.push('{');
            for (at, name) in names.into_iter().enumerate() {
                if at > 0 {
                    into.push(',');
                }
                into.push_str(&Value::String(name.clone()).to_string());
                into.push(':');
                canonical(&fields[name], into);
            }
            into.push('}');
        }
        Value::Array(all) => {
            into.push('[');
            for (at, one) in all.iter().enumerate() {
                if at > 0 {
                    into.push(',');
                }
                canonical(one, into);
            }
            into.push(']');
        }
        plain => into.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_digest_covers_every_field() {
        let (tenant, account) = (TenantId::new(), AccountId::new());
        let (detail, other) = (json!({ "b": 1, "a": [true, null] }), json!({ "b": 2, "a": [true, null] }));
        let at = DateTime::from_timestamp_micros(1_700_000_000_000_001).unwrap();
        let line = || Content {
            id: AuditId(Uuid::from_u128(7)),
            at,
            chain: tenant.0,
            tenant: Some(tenant),
            actor: "a",
            action: "b",
            subject: "c",
            detail: &detail,
            request_id: None,
            personal: None,
        };
        let all = [
            line(),
            Content { id: AuditId(Uuid::from_u128(8)), ..line() },
            Content { at: DateTime::from_timestamp_micros(1_700_000_000_000_002).unwrap(), ..line() },
            Content { chain: account.0, ..line() },
            Content { tenant: None, ..line() },
            Content { actor: "ab", action: "", ..line() },
            Content { actor: "", action: "ab", ..line() },
            Content { subject: "d", ..line() },
            Content { detail: &other, ..line() },
            Content { request_id: Some(""), ..line() },
            Content { personal: Some(&[]), ..line() },
        ];
        let digests: std::collections::BTreeSet<[u8; 32]> = all.iter().map(Content::digest).collect();
        assert_eq!(digests.len(), all.len());
    }

    #[test]
    fn json_has_one_spelling_and_a_commitment_one_opening() {
        let spelt = |text: &str| {
            let mut out = String::new();
            canonical(&serde_json::from_str(text).unwrap(), &mut out);
            out
        };
        assert_eq!(
            spelt(r#" { "bb": [1, {"z": 0, "y": "é\n"}], "a": 1.50 } "#),
            r#"{"a":1.5,"bb":[1,{"y":"é\n","z":0}]}"#
        );
        let data = json!({ "email": "a@b.example" });
        assert_ne!(
            commitment(&[1; 16], &data),
            commitment(&[2; 16], &data),
            "it cannot be guessed without the salt"
        );
        assert_ne!(commitment(&[1; 16], &data), commitment(&[1; 16], &json!({ "email": "c@d.example" })));
    }

    #[test]
    fn a_line_goes_where_it_belongs() {
        let (tenant, account) = (TenantId::new(), AccountId::new());
        assert_eq!(chain_of(Some(tenant), &account.to_string()), tenant.0);
        assert_eq!(chain_of(None, &account.to_string()), account.0);
        for other in ["worker", "cli:root", "operator:opk_1", ""] {
            assert_eq!(chain_of(None, other), PLATFORM);
        }
        assert_ne!(link(&ZERO, 1, &[1; 32]), link(&ZERO, 2, &[1; 32]), "its place is covered");
    }
}
