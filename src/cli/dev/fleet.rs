//! Brings the control database and the three shards of the local stack up to date.

use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;

use super::screen;
use crate::app;
use crate::control_plane::audit::Caller;
use crate::control_plane::plans::{self, Tier};
use crate::control_plane::shards::{
    NewPool, NewShard, pool_add, pool_list, shard_add, shard_list, shard_set_endpoint,
};
use crate::control_plane::{Hands, fleet, probe, runs, slots};
use crate::db::tenant_tls::TenantTls;
use crate::db::{admin, migrations};
use crate::jobs::run::RunState;
use crate::kernel::{Error, Result, SecretRef, codes};
use crate::local::{SHARDS, Stack, write_private};
use crate::product::Current;

/// Tenants per shard: a laptop's worth.
const TENANT_CAP: i32 = 2_000;
/// Spare slots per shard.
const SLOTS: i32 = 5;

pub fn caller() -> Caller {
    Caller { actor: "dev".to_owned(), request_id: None }
}

/// Migrates, registers the shards, and fills their slots.
pub async fn prepare(hands: &Hands, folder: &Path, stack: &Stack) -> Result<()> {
    let control: sqlx::postgres::PgConnectOptions = stack.control_url().parse().map_err(Error::internal)?;
    let migrated = migrations::migrate(&migrations::CONTROL, &control).await?;
    if migrated.from == 0 {
        screen::say("preparing the control database and three shards");
    }
    app::meters::<Current>(&hands.cp).await?;
    plans::apply(&hands.cp, &caller(), &plans::parse(plans::SHIPPED)?, false).await?;
    let mut conn = hands.cp.db.acquire().await?;
    if pool_list(&mut conn).await?.is_empty() {
        let pool = NewPool { name: "default".to_owned(), region: "local".to_owned(), tier: Tier::Pooled };
        pool_add(&hands.cp, &caller(), &pool).await?;
    }
    let known = shard_list(&mut conn).await?;
    drop(conn);
    for index in 0..SHARDS.len() {
        let name = format!("shard-{}", index + 1);
        let url = stack.shard_admin_url(index);
        // The port may be another than last time; the file is what the shard's reference points to.
        let file = std::path::absolute(folder.join(format!("{name}.dsn"))).map_err(Error::internal)?;
        write_private(&file, &url)?;
        match known.iter().find(|shard| shard.name == name) {
            Some(shard) => {
                let options = admin::options(&SecretString::from(url))?;
                let tls = TenantTls::of(&options)?;
                shard_set_endpoint(&mut *hands.cp.db.acquire().await?, shard.id, &options, &tls).await?;
            }
            None => add(hands, &name, &file).await?,
        }
    }
    catch_up(hands).await?;
    probe::probe_all(hands).await?;
    slots::refill(hands, slots::Fill::Full).await?;
    Ok(())
}

async fn add(hands: &Hands, name: &str, file: &Path) -> Result<()> {
    let new = NewShard {
        name: name.to_owned(),
        pool: "default".to_owned(),
        dsn: SecretRef::File(file.to_string_lossy().into_owned()),
        tenant_cap: TENANT_CAP,
        slots: SLOTS,
    };
    let (_, run) = shard_add(&hands.cp, &caller(), &new).await?;
    let ended = runs::carry_out(hands, run, Duration::from_secs(60), |_| {}).await?;
    if ended.state == RunState::Done {
        return Ok(());
    }
    Err(Error::new(&codes::SHARD_UNAVAILABLE)
        .detail(format!("{name} could not be prepared: {}", ended.error.unwrap_or_default())))
}

/// After an upgrade of the program: the schemas of last time are brought to its version.
async fn catch_up(hands: &Hands) -> Result<()> {
    for outcome in fleet::migrate_tenants(hands, |_| {}).await? {
        if let Some(error) = outcome.error {
            tracing::warn!(tenant = outcome.name, error, "could not be migrated");
        }
    }
    Ok(())
}
