//! psql as a tenant's own login.

use std::os::unix::process::CommandExt;
use std::process::Command;

use secrecy::ExposeSecret;
use serde_json::json;

use crate::cli::fleet::Direct;
use crate::control_plane::audit::audit_add;
use crate::control_plane::shards::{shard_by_id, shard_tls};
use crate::control_plane::tenants::{TenantRef, TenantState, tenant_find};
use crate::db::admin;
use crate::db::tenant_tls::root_cert;
use crate::kernel::{Error, Result, codes};

/// What could lead psql elsewhere, or change who it is.
const INHERITED: [&str; 6] =
    ["PGSERVICE", "PGSERVICEFILE", "PGHOSTADDR", "PGPASSFILE", "PGOPTIONS", "PGTARGETSESSIONATTRS"];

/// Becomes psql: its exit code is ours, and Ctrl-C is its own affair. Returns only when that fails.
///
/// # Errors
/// When the tenant's login is shut, or psql is not installed.
pub async fn run(direct: &Direct, tenant: &TenantRef, args: &[String]) -> Result<()> {
    let master = &direct.hands()?.master;
    let mut tx = direct.cp.db.begin().await?;
    let row = tenant_find(&mut tx, tenant).await?;
    let shut = || {
        Error::new(&codes::STATE_CONFLICT)
            .detail(format!("tenant {} is {}: its login is shut", row.slug, row.state))
            .hint("let it in first, with: freehold tenant resume")
    };
    let (TenantState::Active, Some(shard), Some(role)) = (row.state, row.shard, &row.schema_name) else {
        return Err(shut());
    };
    let shard = shard_by_id(&mut tx, shard).await?;
    let tls = shard_tls(&mut tx, shard.id).await?;
    let password = master.login_password(role, row.credential_version.unwrap_or(1));
    let mut psql = Command::new("psql");
    psql.args(args);
    for name in INHERITED {
        psql.env_remove(name);
    }
    psql.env("PGHOST", shard.host.as_deref().unwrap_or_default())
        .env("PGPORT", shard.port.unwrap_or(5432).to_string())
        .env("PGDATABASE", shard.database()?)
        .env("PGUSER", role)
        .env("PGSSLMODE", &tls)
        .env("PGAPPNAME", "freehold-psql")
        // By environment: arguments can be read by every user of the machine.
        .env("PGPASSWORD", password.expose_secret());
    // The same authorities that the admin's DSN names. The servers have them from the registry; psql wants a file.
    if tls == "verify-full"
        && let Some(file) = root_cert(&admin::options(&shard.admin_dsn()?.read(Some(master))?)?)
    {
        psql.env("PGSSLROOTCERT", file);
    }
    // The log first: what cannot be written down does not happen.
    let detail = json!({ "args": args });
    let now = direct.cp.clock.now();
    audit_add(&mut tx, &direct.caller, now, "tenant.psql", Some(row.id), &row.id.to_string(), detail).await?;
    tx.commit().await?;
    direct.cp.db.close().await;
    let error = psql.exec();
    Err(Error::new(&codes::BAD_REQUEST)
        .detail(format!("psql cannot be started: {error}"))
        .hint("install PostgreSQL's client programs")
        .source(error))
}
