//! Two demo tenants, each with a key to try it with.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::fleet::caller;
use super::screen;
use crate::control_plane::provisioning::{NewTenant, tenant_create};
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::control_plane::{Hands, runs};
use crate::http::router::HttpState;
use crate::identity::keys::{NewApiKey, api_key_create};
use crate::jobs::run::RunState;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, Role, codes};
use crate::local::write_private;
use crate::product::{Current, Product};

/// A demo tenant.
pub struct Demo {
    pub id: TenantId,
    pub slug: &'static str,
    pub key: String,
}

const TENANTS: [(&str, &str); 2] = [("acme", "Acme Corporation"), ("globex", "Globex")];

/// Makes the demo tenants that are missing. One that was deleted on purpose stays deleted until `--reset`.
pub async fn tenants(hands: &Hands, folder: &Path) -> Result<Vec<Demo>> {
    let file = folder.join("demo-keys.json");
    let mut keys: BTreeMap<String, String> = match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(Error::internal)?,
        Err(_) => BTreeMap::new(),
    };
    let first_time = keys.is_empty();
    let mut demos = Vec::new();
    for (slug, name) in TENANTS {
        let tenant = TenantRef::Slug(slug.to_owned());
        let found = tenant_find(&mut *hands.cp.db.acquire().await?, &tenant).await;
        let id = match found {
            Ok(row) => row.id,
            Err(error) if error.is(&codes::TENANT_NOT_FOUND) && first_time => {
                create(hands, slug, name).await?
            }
            Err(error) if error.is(&codes::TENANT_NOT_FOUND) => continue,
            Err(error) => return Err(error),
        };
        let key = match keys.get(slug) {
            Some(key) => key.clone(),
            None => {
                let new = NewApiKey { name: "demo".to_owned(), role: Role::Owner, expires_at: None };
                let made = api_key_create(&hands.cp, &caller(), &tenant, &new).await?.key;
                keys.insert(slug.to_owned(), made.clone());
                made
            }
        };
        demos.push(Demo { id, slug, key });
    }
    write_private(&file, &serde_json::to_string_pretty(&keys).map_err(Error::internal)?)?;
    Ok(demos)
}

async fn create(hands: &Hands, slug: &str, name: &str) -> Result<TenantId> {
    let new = NewTenant { slug: slug.to_owned(), name: Some(name.to_owned()), plan: Some("team".to_owned()) };
    let mut tx = hands.cp.db.begin().await?;
    let (tenant, run) = tenant_create(&hands.cp, &mut tx, &caller(), &new).await?;
    tx.commit().await?;
    let ended = runs::carry_out(hands, run, Duration::from_secs(30), |_| {}).await?;
    if ended.state != RunState::Done {
        return Err(Error::internal(format!("demo tenant {slug}: {}", ended.error.unwrap_or_default())));
    }
    Ok(tenant.id)
}

/// Gives each demo tenant that can be reached something to look at.
pub async fn data(http: &HttpState, demos: &[Demo]) -> Result<()> {
    for demo in demos {
        let Some(tenant) = http.directory.tenant(demo.id).await? else { continue };
        let context = http.context_for(tenant);
        match Current::demo(&context).await {
            // It has its data from before; whoever moved the clock past its trial may want to see just that.
            Err(error) if error.is(&codes::PAYMENT_REQUIRED) => {
                screen::note(&format!(
                    "{} has not paid, and nothing is put into it: see the stand-in for Stripe",
                    demo.slug
                ));
            }
            made => made?,
        }
    }
    Ok(())
}
