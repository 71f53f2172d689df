//! Periodic repair: each function takes no input but the world as it is, and brings it to how it should be.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::access::tenant_purge;
use super::audit::Caller;
use super::changes::{self, Change};
use super::plans::Entitlements;
use super::provisioning::ALIGN_LOGIN;
use super::shards::{Shard, shard_by_id, shard_list};
use super::slots::next_fence;
use super::tenants::TenantRef;
use super::{ControlPlane, Hands};
use crate::db::admin;
use crate::db::schema::{CLIENT_CHECK_MS, IDLE_IN_TRANSACTION_MS, LoginLimits, Schema};
use crate::jobs::faults::{self, Moment};
use crate::jobs::queue::{HeldJob, JOB_LIMIT};
use crate::kernel::ids::{ShardId, TenantId};
use crate::kernel::{Error, Result, codes};

/// The longest any statement of a tenant's login may run, whatever it set its own time-out to.
const WATCHDOG_SECONDS: f64 = 30.0;
/// How long the watchdog waits for one shard; the others have their watchdog meanwhile.
const WATCHDOG_PATIENCE: Duration = Duration::from_secs(5);

/// The longest a repair of one shard may take, ten thousand logins included. A shard that falls silent in the middle must
/// not hold up the next round.
const SHARD_LIMIT: Duration = Duration::from_secs(120);

/// Carries out one job.
pub async fn do_job(hands: &Hands, job: &HeldJob) -> Result<()> {
    if job.attempts > job.max_attempts {
        return Err(Error::internal("its workers ended each time before it did"));
    }
    let work = async {
        match job.kind.as_str() {
            ALIGN_LOGIN => align_login(hands, job).await,
            _ => match hands.errands.run(job).await {
                Some(done) => done,
                None => hands.tenant_jobs.carry_out(job).await,
            },
        }
    };
    faults::point("job", &job.kind, Moment::BeforeEffect);
    let outcome = within(JOB_LIMIT, work).await;
    faults::point("job", &job.kind, Moment::AfterEffect);
    outcome
}

#[derive(sqlx::FromRow)]
struct Placed {
    shard: ShardId,
    schema_name: String,
    credential_version: i32,
    #[sqlx(json)]
    entitlements: Entitlements,
}

/// The outcome of some work, or `timeout` when there is none in time.
pub async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Error::new(&codes::TIMEOUT)))
}

/// Gives a tenant's login what its plan says. Settings count from the next session on: if they were others, the tenant's open
/// connections are retired, or a busy one would never hear of them.
async fn align_login(hands: &Hands, job: &HeldJob) -> Result<()> {
    let tenant = job.require_tenant()?;
    let mut control = hands.cp.db.acquire().await?;
    let placed: Option<Placed> = sqlx::query_as(
        "SELECT p.shard, p.schema_name, p.credential_version, plan.entitlements
           FROM placement p JOIN tenant t ON t.id = p.tenant JOIN plan ON plan.id = t.plan WHERE p.tenant = $1",
    )
    .bind(tenant)
    .fetch_optional(&mut *control)
    .await?;
    // Purged meanwhile: nothing is left to align.
    let Some(placed) = placed else { return Ok(()) };
    let shard = shard_by_id(&mut control, placed.shard).await?;
    // Given back before the shard is asked, which may take its time to answer.
    drop(control);
    let schema = Schema {
        name: &placed.schema_name,
        database: shard.database()?,
        credential_version: placed.credential_version,
        fence: None,
    };
    let limits = placed.entitlements.login_limits();
    let mut conn = hands.admin(&shard).await?;
    // An attempt that came no further than the shard has left no difference to be seen.
    let differ =
        job.attempts > 1 || schema.settings(&mut conn).await? != settings_of(&placed.schema_name, limits);
    schema.align(&mut conn, &hands.master, limits).await?;
    drop(conn);
    if differ {
        let mut tx = hands.cp.db.begin().await?;
        sqlx::query("UPDATE tenant SET epoch = epoch + 1 WHERE id = $1 AND state <> 'deleted'")
            .bind(tenant)
            .execute(&mut *tx)
            .await?;
        changes::notify(&mut tx, Change::Tenant(tenant)).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// A login that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    pub shard: String,
    pub role: String,
    pub what: String,
}

#[derive(sqlx::FromRow)]
struct Wanted {
    schema_name: String,
    state: String,
    credential_version: Option<i32>,
    entitlements: Option<sqlx::types::Json<Entitlements>>,
}

impl Wanted {
    fn limits(&self) -> LoginLimits {
        self.entitlements.as_ref().map_or(LoginLimits::SPARE, |plan| plan.0.login_limits())
    }

    fn may_log_in(&self) -> bool {
        !matches!(self.state.as_str(), "suspended" | "deleting")
    }
}

/// What the shard says of one login.
#[derive(sqlx::FromRow)]
struct Actual {
    role: String,
    may_log_in: bool,
    special: bool,
    member_of: i64,
    settings: Vec<String>,
    connections: i32,
    foreign_grants: i64,
    owned: i64,
    /// What the password is checked against; none where the admin may not see it.
    #[sqlx(skip)]
    verifier: Option<String>,
}

/// Compares every tenant login of a shard with what it should be (A10). Logins change by their holder's own hand
/// (`ALTER ROLE … SET`), by an operator's, or not at all.
pub async fn drift(hands: &Hands, shard: &Shard) -> Result<Vec<Drift>> {
    let wanted = wanted(&mut *hands.cp.db.acquire().await?, shard.id).await?;
    let mut conn = hands.admin(shard).await?;
    let actual = actual(&mut conn).await.map_err(admin::shard_error)?;
    let mut found = Vec::new();
    let mut say = |role: &str, what: String| {
        found.push(Drift { shard: shard.name.clone(), role: role.to_owned(), what });
    };
    let by_role: HashMap<&str, &Actual> = actual.iter().map(|have| (have.role.as_str(), have)).collect();
    for want in &wanted {
        let Some(have) = by_role.get(want.schema_name.as_str()) else {
            say(&want.schema_name, "has no login or no schema".to_owned());
            continue;
        };
        let limits = want.limits();
        for (wrong, what) in [
            (
                have.special,
                "has a special right (superuser, createrole, createdb, bypassrls, replication, inherit)",
            ),
            (have.member_of > 0, "is a member of another role"),
            (have.foreign_grants > 0, "has grants outside its schema"),
            (have.owned > 0, "owns objects"),
            (
                have.may_log_in != want.may_log_in(),
                "may log in when it should not, or may not when it should",
            ),
            (have.connections != limits.connections, "has another connection limit than its plan"),
            (have.settings != settings_of(&want.schema_name, limits), "has other settings than its plan"),
            (
                have.verifier.as_ref().is_some_and(|verifier| {
                    *verifier
                        != hands
                            .master
                            .scram_verifier(&want.schema_name, want.credential_version.unwrap_or(1))
                }),
                "has another password",
            ),
        ] {
            if wrong {
                say(&want.schema_name, what.to_owned());
            }
        }
    }
    let known: HashSet<String> = sqlx::query_scalar("SELECT schema_name FROM slot WHERE shard = $1")
        .bind(shard.id)
        .fetch_all(&hands.cp.db)
        .await?
        .into_iter()
        .collect();
    for have in actual.iter().filter(|have| !known.contains(&have.role)) {
        say(&have.role, "is known to no tenant and no slot".to_owned());
    }
    for role in without_schema(&mut conn).await.map_err(admin::shard_error)? {
        // One that should have a schema was named above.
        if wanted.iter().all(|want| want.schema_name != role) {
            say(&role, "is a login that has no schema".to_owned());
        }
    }
    Ok(found)
}

fn settings_of(schema: &str, limits: LoginLimits) -> Vec<String> {
    let mut settings = vec![
        format!("client_connection_check_interval={CLIENT_CHECK_MS}"),
        format!("idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MS}"),
        format!("search_path={schema}"),
        format!("statement_timeout={}", limits.statement_timeout_ms),
    ];
    settings.sort();
    settings
}

async fn wanted(conn: &mut PgConnection, shard: ShardId) -> Result<Vec<Wanted>> {
    Ok(sqlx::query_as(
        "SELECT slot.schema_name, coalesce(t.state, slot.state) AS state, p.credential_version, plan.entitlements
           FROM slot LEFT JOIN placement p ON p.schema_name = slot.schema_name
           LEFT JOIN tenant t ON t.id = p.tenant LEFT JOIN plan ON plan.id = t.plan
          WHERE slot.shard = $1 AND slot.state IN ('ready', 'claimed')
            -- What a run is changing is the run's business.
            AND NOT EXISTS (SELECT 1 FROM run WHERE run.tenant = t.id AND run.state IN ('pending', 'running', 'undoing', 'stuck'))",
    )
    .bind(shard)
    .fetch_all(conn)
    .await?)
}

async fn actual(conn: &mut PgConnection) -> Result<Vec<Actual>, sqlx::Error> {
    let mut logins: Vec<Actual> = sqlx::query_as(
        "SELECT r.rolname::text AS role, r.rolcanlogin AS may_log_in, r.rolconnlimit AS connections,
                (r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolbypassrls OR r.rolreplication OR r.rolinherit)
                  AS special,
                (SELECT count(*) FROM pg_auth_members m WHERE m.member = r.oid) AS member_of,
                array(SELECT unnest(s.setconfig) FROM pg_db_role_setting s
                       WHERE s.setrole = r.oid ORDER BY 1) AS settings,
                (SELECT count(*) FROM pg_shdepend d
                  WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'a'
                    AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                    AND NOT (d.classid = 'pg_namespace'::regclass AND d.objid = n.oid)
                    AND NOT EXISTS (SELECT 1 FROM pg_class c WHERE d.classid = 'pg_class'::regclass
                                       AND c.oid = d.objid AND c.relnamespace = n.oid)
                    AND NOT EXISTS (SELECT 1 FROM pg_proc f WHERE d.classid = 'pg_proc'::regclass
                                       AND f.oid = d.objid AND f.pronamespace = n.oid)) AS foreign_grants,
                (SELECT count(*) FROM pg_shdepend d
                  WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.deptype = 'o') AS owned
           FROM pg_namespace n JOIN pg_roles r ON r.rolname = n.nspname
          WHERE n.nspname ~ '^t_[0-9a-v]{26}$'",
    )
    .fetch_all(&mut *conn)
    .await?;
    // Only a superuser may look at what passwords are checked against.
    let may_look: bool =
        sqlx::query_scalar("SELECT has_table_privilege('pg_authid', 'SELECT')").fetch_one(&mut *conn).await?;
    if may_look {
        let verifiers: HashMap<String, Option<String>> = sqlx::query_as(
            "SELECT rolname::text, rolpassword FROM pg_authid WHERE rolname ~ '^t_[0-9a-v]{26}$'",
        )
        .fetch_all(conn)
        .await?
        .into_iter()
        .collect();
        for login in &mut logins {
            login.verifier = verifiers.get(&login.role).map(|verifier| verifier.clone().unwrap_or_default());
        }
    }
    Ok(logins)
}

/// Tenants' logins that may come to this database and have nothing in it. A server's logins are those of all its databases:
/// the right to connect says whose one is.
async fn without_schema(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT r.rolname::text
           FROM pg_database d CROSS JOIN LATERAL aclexplode(d.datacl) AS granted JOIN pg_roles r ON r.oid = granted.grantee
          WHERE d.datname = current_database() AND granted.privilege_type = 'CONNECT'
            AND r.rolname ~ '^t_[0-9a-v]{26}$'
            AND NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = r.rolname)
          ORDER BY 1",
    )
    .fetch_all(conn)
    .await
}

/// Repairs drifted logins: what a tenant's own login can change about itself is set right, and a login that should be
/// shut is shut. What only an operator's hand can have done is left for `doctor` to report.
pub async fn repair_logins(hands: &Hands) -> Result<usize> {
    let repairs = answering(hands).await?.into_iter().map(async |shard| {
        let repair = within(SHARD_LIMIT, repair_logins_of(hands, &shard)).await;
        repair.unwrap_or_else(|error| {
            tracing::warn!(shard = shard.name, ?error, "its logins could not be looked at");
            0
        })
    });
    Ok(join_all(repairs).await.into_iter().sum())
}

async fn repair_logins_of(hands: &Hands, shard: &Shard) -> Result<usize> {
    // The number first, then the look: a run that begins after the look has a higher one, and is not undone by us.
    let fence = next_fence(&mut *hands.cp.db.acquire().await?).await?;
    let drifted: HashSet<String> = drift(hands, shard).await?.into_iter().map(|drift| drift.role).collect();
    let wanted = wanted(&mut *hands.cp.db.acquire().await?, shard.id).await?;
    let mut conn = hands.admin(shard).await?;
    let mut repaired = 0;
    for want in wanted.iter().filter(|want| drifted.contains(&want.schema_name)) {
        match repair_login(hands, shard, want, fence, &mut conn).await {
            Ok(()) => {
                tracing::info!(shard = shard.name, role = want.schema_name, "a drifted login was set right");
                repaired += 1;
            }
            // One that is beyond repair must not keep the others from theirs.
            Err(error) => {
                tracing::warn!(shard = shard.name, role = want.schema_name, ?error, "not set right");
            }
        }
    }
    Ok(repaired)
}

async fn repair_login(
    hands: &Hands,
    shard: &Shard,
    want: &Wanted,
    fence: i64,
    conn: &mut PgConnection,
) -> Result<()> {
    let database = shard.database()?;
    let credential_version = want.credential_version.unwrap_or(1);
    let schema = |fence| Schema { name: &want.schema_name, database, credential_version, fence };
    schema(None).align(conn, &hands.master, want.limits()).await?;
    if want.may_log_in() {
        schema(Some(fence)).unfence(conn).await
    } else {
        schema(Some(fence)).fence(conn).await
    }
}

/// The shards that can be worked on: prepared, and answering at the last probe.
pub(super) async fn answering(hands: &Hands) -> Result<Vec<Shard>> {
    let mut shards = shard_list(&mut *hands.cp.db.acquire().await?).await?;
    shards.retain(|shard| shard.database.is_some() && shard.last_failure.is_none());
    Ok(shards)
}

/// Ends what a tenant's login must not keep: statements that run too long whatever time-out it set for itself, and any
/// session of a login that may not log in any more.
pub async fn watchdog(hands: &Hands) -> Result<usize> {
    let looks = answering(hands).await?.into_iter().map(async |shard| {
        match within(WATCHDOG_PATIENCE, end_sessions(hands, &shard)).await {
            Ok(0) => 0,
            Ok(sessions) => {
                tracing::warn!(shard = shard.name, sessions, "the watchdog ended sessions");
                sessions
            }
            Err(error) => {
                tracing::warn!(shard = shard.name, ?error, "the watchdog could not look");
                0
            }
        }
    });
    Ok(join_all(looks).await.into_iter().sum())
}

async fn end_sessions(hands: &Hands, shard: &Shard) -> Result<usize> {
    // Ending is in the output, never among the conditions: those are checked in an order of the planner's choosing.
    let ended: Vec<(i32, bool)> = sqlx::query_as(
        "SELECT a.pid, pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
          WHERE a.datname = current_database() AND a.usename ~ '^t_[0-9a-v]{26}$'
            AND (NOT r.rolcanlogin
                 OR (a.state <> 'idle' AND a.xact_start < clock_timestamp() - make_interval(secs => $1)))",
    )
    .bind(WATCHDOG_SECONDS)
    .fetch_all(&mut *hands.admin(shard).await?)
    .await
    .map_err(admin::shard_error)?;
    Ok(ended.len())
}

/// Starts the purge of every tenant whose days of grace are over.
pub async fn purge_due(cp: &ControlPlane) -> Result<usize> {
    let due: Vec<TenantId> = sqlx::query_scalar(
        "SELECT t.id FROM tenant t
          WHERE t.state = 'deleting' AND t.purge_after <= $1
            -- Ten whose shard is away must not keep all others waiting.
            AND NOT EXISTS (SELECT 1 FROM run
                             WHERE run.tenant = t.id AND run.state IN ('pending', 'running', 'undoing', 'stuck'))
          ORDER BY t.purge_after LIMIT 10",
    )
    .bind(cp.clock.now())
    .fetch_all(&cp.db)
    .await?;
    let mut begun = 0;
    for tenant in due {
        match tenant_purge(cp, &Caller::worker(), &TenantRef::Id(tenant), false).await {
            Ok(_) => begun += 1,
            Err(error) => tracing::debug!(%tenant, ?error, "not purged yet"),
        }
    }
    Ok(begun)
}
