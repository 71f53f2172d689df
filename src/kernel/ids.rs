//! Prefixed, time-ordered identifiers: `ten_…`, `run_…`. A UUIDv7 inside, lowercase base32 outside, the prefix
//! checked on parse so that an id of one kind never passes for another.

use data_encoding::BASE32_DNSSEC;
use uuid::Uuid;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id here looks like {prefix}_ followed by 26 characters")]
pub struct BadId {
    pub prefix: &'static str,
}

pub fn encode(prefix: &str, id: Uuid) -> String {
    let mut out = String::with_capacity(prefix.len() + 27);
    out.push_str(prefix);
    out.push('_');
    BASE32_DNSSEC.encode_append(id.as_bytes(), &mut out);
    out
}

pub fn decode(prefix: &'static str, text: &str) -> Result<Uuid, BadId> {
    let bad = BadId { prefix };
    let body = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')).ok_or(bad.clone())?;
    let bytes = BASE32_DNSSEC.decode(body.as_bytes()).map_err(|_| bad.clone())?;
    let id = Uuid::from_slice(&bytes).map_err(|_| bad.clone())?;
    // One spelling per id: no upper case, no stray trailing bits.
    if encode(prefix, id) == text { Ok(id) } else { Err(bad) }
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
                f.write_str(&$crate::kernel::ids::encode($prefix, self.0))
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
                s.collect_str(self)
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
define_id!(OperatorId, "opr", "One of the provider's staff.");
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
