//! What an operator names: `platform`, `shard/eu-1`, `tenant/acme`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;

use super::dedicated::server;
use super::resources::whose;
use super::{ShardCloud, Target};
use crate::control_plane::Hands;
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::shards::shard_list;
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::db::admin::options;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, codes};

/// A name server that is well answers within this.
const LOOK_UP: Duration = Duration::from_secs(5);

/// What a word means.
///
/// # Errors
/// `bad_request` when it means nothing; `tenant_not_found`.
pub async fn target(hands: &Hands, word: &str) -> Result<Target> {
    match word.split_once('/') {
        None if word == "platform" => Ok(Target::Platform),
        Some(("shard", name)) if !name.is_empty() => shard(hands, name).await.map(Target::Shard),
        Some(("tenant", name)) if !name.is_empty() => {
            let Ok(named) = name.parse::<TenantRef>();
            let row = tenant_find(&mut *hands.cp.db.acquire().await?, &named).await?;
            Ok(Target::Tenant(whose(hands, &row)))
        }
        _ => Err(Error::new(&codes::BAD_REQUEST)
            .detail(format!("{word:?} is nothing that is provisioned"))
            .hint("say platform, shard/<name> or tenant/<slug or id>")),
    }
}

/// A server that was made for a tenant, or one that the settings describe.
async fn shard(hands: &Hands, name: &str) -> Result<ShardCloud> {
    let tenant: Option<TenantId> =
        sqlx::query_scalar("SELECT tenant FROM tenant_resources WHERE server = $1")
            .bind(name)
            .fetch_optional(&hands.cp.db)
            .await?;
    Ok(match tenant {
        Some(tenant) => server(hands, name, tenant),
        None => ShardCloud { name: name.to_owned(), made_for: None },
    })
}

/// Writes down that an operator is about to change it.
pub async fn audited(hands: &Hands, caller: &Caller, action: &str, target: &Target) -> Result<()> {
    let (tenant, subject) = match target {
        Target::Platform => (None, "platform".to_owned()),
        Target::Shard(shard) => {
            (shard.made_for.as_ref().map(|whose| whose.tenant), format!("shard/{}", shard.name))
        }
        Target::Tenant(whose) => (Some(whose.tenant), whose.tenant.to_string()),
    };
    let mut tx = hands.cp.db.begin().await?;
    audit_add(&mut tx, caller, hands.cp.clock.now(), action, tenant, &subject, json!({})).await?;
    Ok(tx.commit().await?)
}

/// The platform is looked at here, and changed by Terraform alone: a killed apply of it could not be taken up, for much of what
/// it has is not imported by what it is known by.
///
/// # Errors
/// `infra_refused` that says so.
pub fn may_apply(target: &Target) -> Result<()> {
    match target {
        Target::Platform => Err(Error::new(&codes::INFRA_REFUSED)
            .detail("the platform is not changed by this program, but with Terraform itself")
            .hint("terraform -chdir=terraform/platform apply, as docs/DEPLOY.md shows; plan, show and drift work here")),
        Target::Shard(_) | Target::Tenant(_) => Ok(()),
    }
}

/// Only what nobody needs any more is destroyed: a tenant goes by its purge, and a server when it is in no registry, under
/// whatever name.
///
/// # Errors
/// `state_conflict` with what to do first.
pub async fn may_destroy(hands: &Hands, target: &Target) -> Result<()> {
    let refused = |detail: String, hint: &'static str| {
        Err(Error::new(&codes::STATE_CONFLICT).detail(detail).hint(hint))
    };
    match target {
        Target::Platform => refused(
            "the platform holds the control database, and is not destroyed by this program".to_owned(),
            "by hand, when it must be: terraform -chdir=terraform/platform destroy",
        ),
        Target::Tenant(whose) => refused(
            format!("what tenant {} has in the cloud goes when it is purged", whose.slug),
            "freehold tenant delete, then freehold tenant purge",
        ),
        Target::Shard(ShardCloud { name, made_for: Some(_) }) => refused(
            format!("server {name} was made for one tenant, and goes when that is purged"),
            "freehold tenant delete, then freehold tenant purge",
        ),
        Target::Shard(ShardCloud { name, made_for: None }) => {
            let registered: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM shard WHERE name = $1)")
                .bind(name)
                .fetch_one(&hands.cp.db)
                .await?;
            if !registered {
                return leads_nowhere(hands, target, name).await;
            }
            refused(
                format!("shard {name} is registered: tenants may be on it"),
                "a shard that is registered stays; there is no command yet that takes one out",
            )
        }
    }
}

/// A shard is registered under any name. What counts is where it leads.
///
/// # Errors
/// `state_conflict` when a registered shard is on this server, or it cannot be told where one is.
async fn leads_nowhere(hands: &Hands, target: &Target, name: &str) -> Result<()> {
    let servers = hands.cloud.get()?.show(target).await?.servers;
    if servers.is_empty() {
        return Ok(());
    }
    let mut there = BTreeSet::new();
    for server in &servers {
        // One that has no address any more is reached by nobody under another name.
        there.extend(addresses(server).await.unwrap_or_default());
    }
    let shards = shard_list(&mut *hands.cp.db.acquire().await?).await?;
    for shard in shards {
        let refused = |why: &str| {
            Error::new(&codes::STATE_CONFLICT)
                .detail(format!("server {name} is not removed: {why}"))
                .hint("a shard that is registered stays; there is no command yet that takes one out")
        };
        let unknown = || refused(&format!("where shard {} is cannot be told", shard.name));
        let dsn = shard.admin_dsn().and_then(|dsn| dsn.read(Some(&hands.master)));
        let options = dsn.and_then(|dsn| options(&dsn)).map_err(|error| unknown().source(error))?;
        let host = options.get_host();
        let same = servers.iter().any(|server| bare(server) == bare(host))
            || addresses(host)
                .await
                .map_err(|error| unknown().source(error))?
                .iter()
                .any(|one| there.contains(one));
        if same {
            return Err(refused(&format!(
                "it is what shard {} is registered with, and tenants may be on it",
                shard.name
            )));
        }
    }
    Ok(())
}

fn bare(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// What a host's name stands for.
async fn addresses(host: &str) -> std::io::Result<BTreeSet<IpAddr>> {
    let looked = tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((host, 5432))).await;
    Ok(looked.map_err(std::io::Error::from)??.map(|address| address.ip()).collect())
}
