//! Prefixed, time-ordered identifiers: `ten_…`, `run_…`. A UUIDv7 inside, lowercase base32 outside, the prefix
//! checked on parse so that an id of one kind never passes for another.

use uuid::Uuid;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id here looks like {prefix}_ followed by 26 characters")]
pub struct BadId {
    pub prefix: &'static str,
}

pub fn encode(prefix: &str, id: Uuid) -> String {
    let mut out = String::with_capacity(prefix.len() + 1 + DIGITS);
    out.push_str(prefix);
    out.push('_');
    with_digits(id, |digits| out.push_str(digits));
    out
}

/// Lower case base32 in the order of its values (RFC 4648's "extended hex"), so that texts sort as their ids do.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
/// 128 bits, five at a time; the last digit holds three.
const DIGITS: usize = 26;

/// By hand, because a list of a hundred rows spells two hundred ids.
fn with_digits<T>(id: Uuid, then: impl FnOnce(&str) -> T) -> T {
    let bits = id.as_u128();
    let mut digits = [0; DIGITS];
    for (place, digit) in digits.iter_mut().enumerate() {
        let five = if place == DIGITS - 1 { bits << 2 } else { bits >> (123 - 5 * place) };
        *digit = ALPHABET[(five & 31) as usize];
    }
    // Letters and digits of ASCII only.
    then(std::str::from_utf8(&digits).unwrap_or_default())
}

/// The whole text of an id, without an allocation.
pub fn spell<T>(prefix: &str, id: Uuid, then: impl FnOnce(&str) -> T) -> T {
    let mut text = [0; 40];
    let end = prefix.len() + 1 + DIGITS;
    if end > text.len() {
        return then(&encode(prefix, id));
    }
    text[..prefix.len()].copy_from_slice(prefix.as_bytes());
    text[prefix.len()] = b'_';
    with_digits(id, |digits| text[prefix.len() + 1..end].copy_from_slice(digits.as_bytes()));
    then(std::str::from_utf8(&text[..end]).unwrap_or_default())
}

pub fn decode(prefix: &'static str, text: &str) -> Result<Uuid, BadId> {
    let bad = BadId { prefix };
    let body = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')).ok_or(bad.clone())?;
    if body.len() != DIGITS {
        return Err(bad);
    }
    let mut bits = 0;
    for (place, digit) in body.bytes().enumerate() {
        // One spelling per id: no upper case, no stray trailing bits.
        let five = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'v' => digit - b'a' + 10,
            _ => return Err(bad),
        };
        if place < DIGITS - 1 {
            bits = bits << 5 | u128::from(five);
        } else if five & 3 == 0 {
            bits = bits << 3 | u128::from(five >> 2);
        } else {
            return Err(bad);
        }
    }
    Ok(Uuid::from_u128(bits))
}

/// Declares an id type: `define_id!(TaskId, "tsk", "A task.")`.
#[macro_export]
macro_rules! define_id {
    ($name:ident, $prefix:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type)]
        #[sqlx(transparent)]
        pub struct $name(pub uuid::Uuid);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            /// A new id that sorts after every one made before it.
            #[allow(clippy::new_without_default, clippy::disallowed_methods)]
            pub fn new() -> Self {
                Self(uuid::Uuid::now_v7())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                $crate::kernel::ids::spell($prefix, self.0, |text| f.write_str(text))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::kernel::ids::BadId;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::kernel::ids::decode($prefix, text).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                $crate::kernel::ids::spell($prefix, self.0, |text| s.serialize_str(text))
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::ToSchema for $name {}

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some(concat!("^", $prefix, "_[0-9a-v]{26}$")))
                    .examples([concat!($prefix, "_06fqv3k1s9t4m7b2n8c5v0r6e4")])
                    .build()
                    .into()
            }
        }
    };
}

define_id!(TenantId, "ten", "One customer organisation.");
define_id!(ShardId, "shd", "One PostgreSQL database that holds tenant schemas.");
define_id!(RunId, "run", "A recorded, resumable sequence of steps.");
define_id!(JobId, "job", "One retryable side effect.");
define_id!(ApiKeyId, "key", "A tenant's API key (the record, not the secret).");
define_id!(OperatorKeyId, "opk", "An operator's API key (the record, not the secret).");
define_id!(AuditId, "aud", "One line of the audit log.");
define_id!(AccountId, "acc", "A person who signs in.");
define_id!(SessionId, "ses", "A signed-in device (the record, not the secret).");
define_id!(InvitationId, "inv", "An invitation to a tenant.");
define_id!(PasswordLinkId, "pwl", "A mailed link with which a password is chosen.");
define_id!(OperatorId, "opr", "One of the provider's staff.");
define_id!(ApprovalId, "apv", "An operator's word for what another does.");
define_id!(SupportId, "sup", "A look into a tenant by the provider's staff.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_the_round_trip_and_refuse_other_kinds() {
        let id = TenantId::new();
        assert_eq!(id.to_string().parse::<TenantId>(), Ok(id));
        assert!(id.to_string().parse::<RunId>().is_err());
        assert!(id.to_string().to_uppercase().parse::<TenantId>().is_err());
        assert!("ten_".parse::<TenantId>().is_err());
        assert!("ten_zz".parse::<TenantId>().is_err());
    }

    #[test]
    fn the_documented_example_is_an_id() {
        assert!("ten_06fqv3k1s9t4m7b2n8c5v0r6e4".parse::<TenantId>().is_ok());
    }

    #[test]
    fn later_ids_sort_later_as_text() {
        let ids: Vec<String> = (0..100).map(|_| RunId::new().to_string()).collect();
        assert!(ids.is_sorted());
    }
}
