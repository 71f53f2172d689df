//! May this caller go on? The decisions of the tenancy middleware, without its I/O.

use http::{HeaderMap, header};

use super::host::Host;
use crate::control_plane::tenants::TenantState;
use crate::data_plane::directory::Tenant;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// Names the tenant where the host does not: its slug or its id.
pub const TENANT_HEADER: &str = "x-freehold-tenant";

/// The text of the one bearer key or token. Of two, a proxy may have checked the other one: then none counts.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// What the header names, if it is sent.
///
/// # Errors
/// `bad_request` for more than one.
pub fn header_of(headers: &HeaderMap) -> Result<Option<&[u8]>> {
    let mut values = headers.get_all(TENANT_HEADER).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(|value| value.as_bytes())),
        _ => Err(Error::new(&codes::BAD_REQUEST).detail("send X-Freehold-Tenant once")),
    }
}

/// Whether everything the request says about its tenant means the key's own. The tenant served is always the key's:
/// this check is what refuses, not what chooses, so a mistake here cannot show another tenant's rows.
///
/// # Errors
/// `tenant_not_found` when anything means another tenant or none, one answer for both; `tenant_required` when nothing
/// is said at all.
pub fn agree(tenant: &Tenant, host: &Host, header: Option<&[u8]>) -> Result<()> {
    let by_host = match host {
        Host::Base if header.is_none() => return Err(Error::new(&codes::TENANT_REQUIRED)),
        Host::Base => true,
        Host::Slug(slug) => tenant.slug == *slug,
        Host::Other(domain) => tenant.has_domain(domain),
    };
    let by_header = header.is_none_or(|header| {
        header == tenant.slug.as_str().as_bytes()
            || std::str::from_utf8(header)
                .ok()
                .and_then(|text| text.parse::<TenantId>().ok())
                .is_some_and(|id| id == tenant.id)
    });
    if by_host && by_header { Ok(()) } else { Err(not_found()) }
}

/// Whether the tenant is served at present.
pub fn served(state: TenantState) -> Result<()> {
    match state {
        TenantState::Active => Ok(()),
        TenantState::Provisioning => {
            Err(Error::new(&codes::TENANT_NOT_READY).retry_after(std::time::Duration::from_secs(1)))
        }
        TenantState::Suspended => Err(Error::new(&codes::TENANT_SUSPENDED)),
        TenantState::Deleting | TenantState::Deleted => Err(not_found()),
    }
}

pub fn not_found() -> Error {
    Error::new(&codes::TENANT_NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use secrecy::ExposeSecret;

    use super::*;
    use crate::control_plane::plans::Entitlements;
    use crate::kernel::credentials::{self, KeyHash, KeyKind};
    use crate::kernel::{Entropy, Slug};

    fn key_of(headers: &HeaderMap) -> Option<KeyHash> {
        credentials::parse(KeyKind::Tenant, bearer(headers)?)
    }

    fn tenant(slug: &str, domain: &str) -> Tenant {
        Tenant {
            id: TenantId::new(),
            slug: Slug::parse(slug).unwrap(),
            name: slug.into(),
            state: TenantState::Active,
            plan: "free".into(),
            limits: Arc::new(Entitlements {
                requests_per_second: 1,
                burst: 1,
                connections: 1,
                statement_timeout_ms: 1,
                projects: 1,
                seats: 1,
                requests_per_month: None,
                stored_bytes: None,
            }),
            epoch: 1,
            domains: Box::new([domain.into()]),
            login: None,
        }
    }

    #[test]
    fn all_that_is_said_must_mean_the_key_s_tenant() {
        let (acme, globex) = (tenant("acme", "work.acme.io"), tenant("globex", "globex.io"));
        let slug = |s: &str| Host::Slug(Slug::parse(s).unwrap());
        let other = |s: &str| Host::Other(s.into());
        let (id, foreign) = (acme.id.to_string(), globex.id.to_string());
        let upper = id.to_uppercase();
        for (host, header, want) in [
            (slug("acme"), None, None),
            (other("work.acme.io"), None, None),
            (Host::Base, Some("acme"), None),
            (Host::Base, Some(id.as_str()), None),
            (slug("acme"), Some("acme"), None),
            (other("work.acme.io"), Some(id.as_str()), None),
            (Host::Base, None, Some("tenant_required")),
            (slug("globex"), None, Some("tenant_not_found")),
            (slug("nobody"), None, Some("tenant_not_found")),
            (other("globex.io"), None, Some("tenant_not_found")),
            (Host::Base, Some("globex"), Some("tenant_not_found")),
            (Host::Base, Some(foreign.as_str()), Some("tenant_not_found")),
            (Host::Base, Some(""), Some("tenant_not_found")),
            (Host::Base, Some(upper.as_str()), Some("tenant_not_found")),
            (slug("acme"), Some("globex"), Some("tenant_not_found")),
            (slug("globex"), Some("acme"), Some("tenant_not_found")),
            (slug("globex"), Some("globex"), Some("tenant_not_found")),
        ] {
            let got = agree(&acme, &host, header.map(str::as_bytes));
            assert_eq!(got.err().map(|e| e.code().name), want, "{host:?} {header:?}");
        }
    }

    #[test]
    fn only_one_well_formed_tenant_key_counts() {
        let entropy = Entropy::default();
        let key = credentials::make(KeyKind::Tenant, &entropy);
        let operator = credentials::make(KeyKind::Operator, &entropy);
        let (text, operator) = (key.key.expose_secret(), operator.key.expose_secret());
        let with = |values: &[String]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            key_of(&headers)
        };
        assert_eq!(with(&[format!("Bearer {text}")]), Some(key.hash));
        assert_eq!(with(&[format!("bearer  {text}")]), Some(key.hash));
        for refused in [
            vec![],
            vec![format!("Bearer {operator}")],
            vec![format!("Basic {text}")],
            vec![text.to_owned()],
            vec!["Bearer".to_owned()],
            vec![format!("Bearer {text}"), format!("Bearer {text}")],
        ] {
            assert_eq!(with(&refused), None, "{} values", refused.len());
        }
    }
}
