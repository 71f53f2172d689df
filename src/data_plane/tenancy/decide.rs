//! May this caller go on? The decisions of the tenancy middleware, without its I/O.

use http::{HeaderMap, Method, header};

use super::host::Host;
use crate::billing::access::Access;
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
pub fn served(tenant: &Tenant) -> Result<()> {
    match tenant.state {
        // By money, not by an operator: whoever asks is told how to end it.
        TenantState::Suspended if tenant.access == Access::Suspended => Err(unpaid("it is suspended")),
        TenantState::Active => Ok(()),
        TenantState::Provisioning => {
            Err(Error::new(&codes::TENANT_NOT_READY).retry_after(std::time::Duration::from_secs(1)))
        }
        TenantState::Suspended => Err(Error::new(&codes::TENANT_SUSPENDED)),
        TenantState::Deleting | TenantState::Deleted => Err(not_found()),
    }
}

/// Whether a request takes something away: a tenant whose room is used up may still send it. A form of a page has no other
/// method than POST, so the end of its address says it.
pub fn takes_away(method: &Method, path: &str) -> bool {
    method == Method::DELETE
        || (method == Method::POST && matches!(path.rsplit('/').next(), Some("delete" | "remove")))
}

/// The last parts of paths whose POST changes what is there. Every other POST makes something new: one that is not named
/// here is refused to whoever owes money, which is the safe mistake.
const CHANGES: [&str; 13] = [
    "delete",
    "end",
    "join",
    "provider",
    "remove",
    "require",
    "resend",
    "revoke",
    "revoke-others",
    "role",
    "status",
    "transfer",
    "verify",
];
/// What takes a way in away is possible whatever is owed.
const TAKES_AWAY: [&str; 7] = [
    "/sessions/",
    "/api/v1/sessions/",
    "/api/v1/support-sessions/",
    "/api-keys/revoke",
    "/members/remove",
    "/members/invitations/revoke",
    "/audit/support/end",
];
const TAKES_AWAY_BY_DELETE: [&str; 3] = ["/api/v1/api-keys/", "/api/v1/members/", "/api/v1/invitations/"];

/// Whether what is owed leaves room for this request. `path` is that of the route.
///
/// # Errors
/// `payment_required`, with what to do about it.
pub fn paid(access: Access, method: &Method, path: Option<&str>) -> Result<()> {
    if method.is_safe() || !access.makes_nothing() {
        return Ok(());
    }
    let path = path.unwrap_or_default();
    let begins = |all: &[&str]| all.iter().any(|begin| path.starts_with(begin));
    if begins(&TAKES_AWAY) || (method == Method::DELETE && begins(&TAKES_AWAY_BY_DELETE)) {
        return Ok(());
    }
    if access.reads_only() {
        return Err(unpaid("it can only be read"));
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    let changes = *method != Method::POST || last.starts_with('{') || CHANGES.contains(&last);
    if changes { Ok(()) } else { Err(unpaid("nothing new can be made")) }
}

fn unpaid(what: &str) -> Error {
    Error::new(&codes::PAYMENT_REQUIRED)
        .detail(format!("this workspace is unpaid: {what}"))
        .hint("an owner sees how to pay on the page of the workspace's plan, and in the mail about it")
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
            stored_bytes: 0,
            access: Access::Active,
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
    fn a_deletion_is_told_from_other_changes() {
        for (method, path, want) in [
            (Method::DELETE, "/api/v1/projects/prj_1", true),
            (Method::POST, "/projects/prj_1/delete", true),
            (Method::POST, "/api/v1/projects", false),
            (Method::POST, "/delete/projects", false),
            (Method::PUT, "/projects/prj_1/delete", false),
            (Method::PATCH, "/api/v1/projects/prj_1", false),
        ] {
            assert_eq!(takes_away(&method, path), want, "{method} {path}");
        }
    }

    #[test]
    fn what_is_owed_takes_away_step_by_step_and_never_the_way_to_shut_a_door() {
        let refused = |access, method: &Method, path| paid(access, method, Some(path)).is_err();
        for access in [Access::Trialing, Access::Active, Access::Grace] {
            assert!(!refused(access, &Method::POST, "/api/v1/projects"), "{access}");
        }
        for new in ["/api/v1/projects", "/api/v1/tasks/{id}/comments", "/members/invite", "/projects"] {
            assert!(refused(Access::PastDue, &Method::POST, new), "{new}");
        }
        for change in [
            "/tasks/{task}/status",
            "/members/role",
            "/api/v1/domains/{domain}/verify",
            "/api/v1/things/{id}",
        ] {
            assert!(!refused(Access::PastDue, &Method::POST, change), "{change}");
            assert!(refused(Access::Restricted, &Method::POST, change), "{change}");
        }
        for method in [Method::PUT, Method::PATCH, Method::DELETE] {
            assert!(!refused(Access::PastDue, &method, "/api/v1/tasks/{id}"));
            for access in [Access::Restricted, Access::Canceled, Access::Suspended] {
                assert!(refused(access, &method, "/api/v1/tasks/{id}"), "{access} {method}");
                assert!(!refused(access, &Method::GET, "/api/v1/tasks/{id}"), "{access}");
                assert!(!refused(access, &Method::DELETE, "/api/v1/api-keys/{id}"), "{access}");
                assert!(!refused(access, &Method::POST, "/sessions/revoke"), "{access}");
            }
        }
        assert!(paid(Access::Restricted, &Method::POST, None).is_err());
    }

    #[test]
    fn a_suspension_says_whether_paying_ends_it() {
        let code = |state, access| {
            let tenant = Tenant { state, access, ..tenant("acme", "work.acme.io") };
            served(&tenant).err().map(|error| error.code().name)
        };
        assert_eq!(code(TenantState::Active, Access::Suspended), None, "the run that shuts it has not begun");
        assert_eq!(code(TenantState::Suspended, Access::Suspended), Some("payment_required"));
        assert_eq!(code(TenantState::Suspended, Access::Active), Some("tenant_suspended"));
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
