//! `freehold doctor`: what is not as it should be, on the control database and on every shard.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::Hands;
use super::infra::lookout::{self, LookFilter};
use super::reconcile;
use super::shards::{Shard, ShardState, shard_by_id, shard_list};
use crate::db::{admin, hardening, migrations};
use crate::kernel::{Error, Result};

/// Clocks may differ by this much before it is a finding, in seconds.
const SKEW: f64 = 2.0;
/// A worker makes a slot in some ten milliseconds; on a busy machine it may take longer.
const SLOT_PATIENCE: Duration = Duration::from_secs(2);

/// How bad a finding is. Only problems make `doctor` fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing; on a managed server perhaps unavoidable.
    Note,
    Problem,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub severity: Severity,
    /// `control`, or a shard's name.
    pub place: String,
    /// Stable name of the check.
    pub check: String,
    pub message: String,
    pub hint: String,
}

/// What a look at everything found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub shards: usize,
    pub tenants: i64,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn healthy(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity < Severity::Problem)
    }
}

struct Findings {
    place: String,
    list: Vec<Finding>,
}

impl Findings {
    fn of(place: &str) -> Self {
        Self { place: place.to_owned(), list: Vec::new() }
    }

    fn add(&mut self, severity: Severity, check: &str, message: impl Into<String>, hint: &str) {
        self.list.push(Finding {
            severity,
            place: self.place.clone(),
            check: check.to_owned(),
            message: message.into(),
            hint: hint.to_owned(),
        });
    }
}

/// Looks at the control database and every shard; `looked` is told of each shard that is done.
pub async fn examine(hands: &Hands, mut looked: impl FnMut(&str)) -> Result<Report> {
    let mut findings = control(hands).await?;
    let mut conn = hands.cp.db.acquire().await?;
    let shards = shard_list(&mut conn).await?;
    let tenants = sqlx::query_scalar("SELECT count(*) FROM tenant WHERE state <> 'deleted'")
        .fetch_one(&mut *conn)
        .await?;
    drop(conn);
    for shard in &shards {
        // One that cannot be read (half prepared, gone in the middle) is a finding, and the others are looked at too.
        findings.extend(examine_shard(hands, shard).await.unwrap_or_else(|error| unreadable(shard, &error)));
        looked(&shard.name);
    }
    Ok(Report { shards: shards.len(), tenants, findings })
}

fn unreadable(shard: &Shard, error: &Error) -> Vec<Finding> {
    tracing::warn!(shard = shard.name, ?error, "a shard could not be examined");
    let mut found = Findings::of(&shard.name);
    let hint = error.public_hint().unwrap_or("prepare it again with: freehold migrate shards");
    found.add(Severity::Problem, "unreadable", format!("it could not be examined: {error}"), hint);
    found.list
}

/// Whether a database's clock is ours.
async fn clock(hands: &Hands, conn: &mut PgConnection, found: &mut Findings) -> sqlx::Result<()> {
    let skew: f64 = sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp() - $1)::float8")
        .bind(hands.cp.clock.now())
        .fetch_one(conn)
        .await?;
    if skew.abs() > SKEW {
        found.add(
            Severity::Problem,
            "clock_skew",
            format!("its clock differs from ours by {skew:.1} s"),
            "let both machines keep their time by NTP",
        );
    }
    Ok(())
}

async fn control(hands: &Hands) -> Result<Vec<Finding>> {
    let mut found = Findings::of("control");
    let mut conn = hands.cp.db.acquire().await?;
    let (have, want) = (migrations::version(&mut conn).await?, migrations::target(&migrations::CONTROL));
    if have != want {
        found.add(
            Severity::Problem,
            "control_version",
            format!("the control database is at version {have}, this build at {want}"),
            "run: freehold migrate control",
        );
    }
    clock(hands, &mut conn, &mut found).await?;
    // An older control database knows nothing of it.
    if have == want {
        cloud(&mut conn, &mut found).await?;
    }
    let (stuck, dead): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM run WHERE state = 'stuck'), (SELECT count(*) FROM job WHERE state = 'dead')",
    )
    .fetch_one(&mut *conn)
    .await?;
    if stuck > 0 {
        found.add(
            Severity::Problem,
            "stuck_runs",
            format!("{stuck} runs were given up"),
            "see them with: freehold run list --open; try again with: freehold run resume",
        );
    }
    if dead > 0 {
        found.add(
            Severity::Problem,
            "dead_jobs",
            format!("{dead} jobs failed too often"),
            "see them with: freehold job list --state dead; try again with: freehold job retry",
        );
    }
    let miscounted: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM shard s WHERE tenants <> (SELECT count(*) FROM placement WHERE shard = s.id) ORDER BY name",
    )
    .fetch_all(&mut *conn)
    .await?;
    for name in miscounted {
        found.add(
            Severity::Problem,
            "tenant_count",
            format!("shard {name} counts its tenants wrongly"),
            "look for placements changed by hand",
        );
    }
    Ok(found.list)
}

/// What the nightly looks at the cloud have found.
async fn cloud(conn: &mut PgConnection, found: &mut Findings) -> Result<()> {
    for look in lookout::looks(conn, &LookFilter::default()).await? {
        let name =
            if look.name.is_empty() { look.kind.clone() } else { format!("{}/{}", look.kind, look.name) };
        let what: Vec<&str> = look.found.iter().map(|changed| changed.address.as_str()).collect();
        let what = what.join(", ");
        if look.kind == "orphans" && !what.is_empty() {
            found.add(
                Severity::Problem,
                "infra_orphans",
                format!("in the cloud and in no state: {what}"),
                "look again with: freehold infra orphans; then find out whose it was",
            );
        } else if !what.is_empty() {
            found.add(
                Severity::Problem,
                "infra_drift",
                format!("{name}: {what} changed behind our back"),
                "look with: freehold infra drift; put it right with: freehold infra apply",
            );
        }
        if let Some(error) = look.error {
            found.add(
                Severity::Note,
                "infra_look",
                format!("{name} could not be looked at: {error}"),
                "it is tried again within the hour; see the worker's log",
            );
        }
    }
    Ok(())
}

async fn examine_shard(hands: &Hands, shard: &Shard) -> Result<Vec<Finding>> {
    let mut found = Findings::of(&shard.name);
    let Some(database) = &shard.database else {
        found.add(
            Severity::Problem,
            "not_prepared",
            "it was added and never prepared",
            "is a worker running? see: freehold run list --open",
        );
        return Ok(found.list);
    };
    let mut conn = match hands.admin(shard).await {
        Ok(conn) => conn,
        Err(error) => {
            found.add(
                Severity::Problem,
                "unreachable",
                format!("{database} on {}: {error}", shard.host.as_deref().unwrap_or("?")),
                error.public_hint().unwrap_or("is its server running?"),
            );
            return Ok(found.list);
        }
    };
    clock(hands, &mut conn, &mut found).await.map_err(admin::shard_error)?;
    let version: i64 =
        sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM freehold._sqlx_migrations WHERE success")
            .fetch_one(&mut *conn)
            .await
            .map_err(admin::shard_error)?;
    let want = migrations::target(&migrations::SHARD);
    if version != want {
        found.add(
            Severity::Problem,
            "shard_version",
            format!("its freehold schema is at version {version}, this build at {want}"),
            "run: freehold migrate shards",
        );
    }
    for opening in hardening::openings(&mut conn).await.map_err(admin::shard_error)? {
        found.add(
            Severity::Note,
            "open_to_public",
            format!("{} {} could not be closed", opening.kind, opening.name),
            "revoke it as the server's superuser, or see docs/SECURITY.md for what it means",
        );
    }
    drop(conn);
    versions(hands, shard, &mut found).await?;
    for drift in reconcile::drift(hands, shard).await? {
        found.add(
            Severity::Problem,
            "drifted_login",
            format!("{} {}", drift.role, drift.what),
            "the worker sets right what it may; the rest was changed by hand",
        );
    }
    if shard.state == ShardState::Active {
        if let Some((ready, spare)) = missing_slots(hands, shard).await? {
            found.add(
                Severity::Problem,
                "missing_slots",
                format!("{ready} of {spare} spare slots are ready"),
                "is a worker running? fill them now with: freehold slot fill",
            );
        }
        if shard.tenants >= shard.tenant_cap {
            found.add(
                Severity::Note,
                "full",
                format!("it holds {} of {} tenants", shard.tenants, shard.tenant_cap),
                "add another with: freehold shard add",
            );
        }
    }
    Ok(found.list)
}

/// How many spare slots are ready and how many should be, unless they are enough. A worker that is just replacing the
/// one a new tenant took gets a moment.
async fn missing_slots(hands: &Hands, shard: &Shard) -> Result<Option<(i64, i64)>> {
    let deadline = tokio::time::Instant::now() + SLOT_PATIENCE;
    loop {
        let now = shard_by_id(&mut *hands.cp.db.acquire().await?, shard.id).await?;
        let spare = i64::from(now.slot_target.min(now.tenant_cap - now.tenants));
        if now.slots_ready >= spare {
            return Ok(None);
        }
        if tokio::time::Instant::now() >= deadline {
            return Ok(Some((now.slots_ready, spare)));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn versions(hands: &Hands, shard: &Shard, found: &mut Findings) -> Result<()> {
    let want = hands.cp.schema_version();
    let behind: i64 = sqlx::query_scalar("SELECT count(*) FROM placement WHERE shard = $1 AND version <> $2")
        .bind(shard.id)
        .bind(want)
        .fetch_one(&hands.cp.db)
        .await?;
    if behind > 0 {
        found.add(
            Severity::Problem,
            "tenant_versions",
            format!("{behind} tenant schemas are not at version {want}"),
            "run: freehold migrate tenants",
        );
    }
    let recorded: Vec<(String, i64)> = sqlx::query_as(
        "SELECT schema_name, version FROM slot WHERE shard = $1 AND state IN ('ready', 'claimed')",
    )
    .bind(shard.id)
    .fetch_all(&hands.cp.db)
    .await?;
    let there: std::collections::HashMap<String, i64> =
        sqlx::query_as("SELECT schema_name, version FROM freehold.schema_version")
            .fetch_all(&mut *hands.admin(shard).await?)
            .await
            .map_err(admin::shard_error)?
            .into_iter()
            .collect();
    for (schema, version) in recorded {
        if there.get(&schema).is_some_and(|actual| *actual != version) {
            found.add(
                Severity::Problem,
                "version_record",
                format!("{schema} is recorded at version {version} and is not"),
                "run: freehold migrate tenants",
            );
        }
    }
    Ok(())
}
