//! What a tenant has in the cloud beside its schema: made behind the tenant, which answers meanwhile, and removed before
//! the tenant is forgotten.
//!
//! The row in `tenant_resources` is written before anything is made, and goes after everything is removed. So whatever
//! is in the cloud for a tenant, there is a row that says so.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tokio::sync::watch;

use super::dedicated::DEDICATED;
use super::{Provision, Report, Target, TenantCloud};
use crate::control_plane::Hands;
use crate::control_plane::tenants::{TenantRef, TenantRow, TenantState, tenant_find};
use crate::jobs::run::{NewRun, RunProgress, run_progress, run_record};
use crate::jobs::saga::{self, Held, Kind, OnFailure, Pace, StepDef, Writes};
use crate::kernel::ids::{RunId, TenantId};
use crate::kernel::{Error, Result, codes};

/// Tenants that are begun in one round, so that the first of a new provisioner does not record all at once.
const AT_ONCE: i64 = 50;
/// How often followers hear how far it is.
const TELL: Duration = Duration::from_millis(500);

/// Where a tenant's resources are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ResourcesState {
    /// Being made, behind the tenant.
    Pending,
    Ready,
}

impl ResourcesState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
        }
    }
}

/// make: one step, tried until it works.
pub static RESOURCES: Kind<Hands> = Kind {
    name: "resources",
    steps: &[StepDef { name: "make", run: make, undo: None }],
    on_failure: OnFailure::Retry,
    pace: Pace::Slow,
};

#[derive(Serialize, Deserialize)]
struct Input {
    tenant: TenantId,
}

/// A run of its own, beside the tenant's: a suspension does not wait for a cloud.
fn subject(tenant: TenantId) -> String {
    format!("resources:{tenant}")
}

/// Whether only a process with a cloud can carry this run out, and this is none: it would only be in the way of one that can.
pub(in crate::control_plane) async fn is_for_another(hands: &Hands, run: RunId) -> Result<bool> {
    if hands.cloud.is_there() {
        return Ok(false);
    }
    let needs: Option<bool> = sqlx::query_scalar(
        "SELECT kind = ANY ($2) OR (kind = 'purge' AND EXISTS (SELECT FROM tenant_resources r WHERE r.tenant = run.tenant))
           FROM run WHERE id = $1",
    )
    .bind(run)
    .bind(vec![RESOURCES.name, DEDICATED.name])
    .fetch_optional(&hands.cp.db)
    .await?;
    Ok(needs.unwrap_or(false))
}

/// Records a run for each tenant whose plan asks for resources and that has none, and for each whose run was ended by a
/// deletion that was taken back.
pub async fn begin_due(hands: &Hands) -> Result<usize> {
    if !hands.cloud.is_there() {
        return Ok(0);
    }
    let mut tx = hands.cp.db.begin().await?;
    // Of two workers that look at once, each takes others.
    let due: Vec<TenantId> = sqlx::query_scalar(
        "SELECT t.id FROM tenant t JOIN plan ON plan.id = t.plan
          WHERE t.state IN ('active', 'suspended') AND plan.resources
            AND NOT EXISTS (SELECT FROM tenant_resources r WHERE r.tenant = t.id AND r.state = 'ready')
            AND NOT EXISTS (SELECT FROM run WHERE run.tenant = t.id AND run.kind = $2
                              AND run.state IN ('pending', 'running', 'undoing', 'stuck'))
          ORDER BY t.created_at, t.id LIMIT $1 FOR UPDATE OF t SKIP LOCKED",
    )
    .bind(AT_ONCE)
    .bind(RESOURCES.name)
    .fetch_all(&mut *tx)
    .await?;
    for tenant in &due {
        begin(&mut tx, hands, *tenant).await?;
    }
    tx.commit().await?;
    Ok(due.len())
}

async fn begin(tx: &mut PgConnection, hands: &Hands, tenant: TenantId) -> Result<()> {
    let now = hands.cp.clock.now();
    sqlx::query(
        "INSERT INTO tenant_resources (tenant, state, updated_at) VALUES ($1, 'pending', $2) ON CONFLICT DO NOTHING",
    )
    .bind(tenant)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    let run = NewRun {
        kind: RESOURCES.name,
        subject: subject(tenant),
        tenant: Some(tenant),
        input: serde_json::to_value(Input { tenant }).map_err(Error::internal)?,
        steps: &RESOURCES.step_names(),
        done: 0,
    };
    run_record(tx, &run, now).await.map(drop)
}

fn make<'a>(hands: &'a Hands, held: &'a Held) -> BoxFuture<'a, Result<Option<Writes>>> {
    Box::pin(async move {
        let Input { tenant } = held.input()?;
        let row = tenant_find(&mut *hands.cp.db.acquire().await?, &TenantRef::Id(tenant)).await?;
        if !matches!(row.state, TenantState::Active | TenantState::Suspended) {
            // On its way out: whoever purges it removes what is there. If it is brought back, another run begins.
            return Ok(None);
        }
        make_ready(hands, held, &row).await
    })
}

/// Makes what a tenant has in the cloud beside its schema and its server, and notes that it is there.
pub(super) async fn make_ready(hands: &Hands, held: &Held, row: &TenantRow) -> Result<Option<Writes>> {
    let (tenant, target) = (row.id, Target::Tenant(whose(hands, row)));
    let outputs =
        told(hands, held, |cloud, report| async move { cloud.apply(&target, report).await }).await?;
    let now = hands.cp.clock.now();
    saga::write(move |tx| {
        Box::pin(async move {
            sqlx::query(
                "UPDATE tenant_resources SET state = 'ready', outputs = $2, updated_at = $3 WHERE tenant = $1",
            )
            .bind(tenant)
            .bind(outputs)
            .bind(now)
            .execute(tx)
            .await?;
            Ok(())
        })
    })
}

/// A purge's first step: removes what the tenant has in the cloud, if it has anything there. The row goes with the tenant.
pub(in crate::control_plane) async fn remove(hands: &Hands, held: &Held, tenant: TenantId) -> Result<()> {
    let mut control = hands.cp.db.acquire().await?;
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM tenant_resources WHERE tenant = $1)")
        .bind(tenant)
        .fetch_one(&mut *control)
        .await?;
    if !there {
        return Ok(());
    }
    // One that makes them sees that the tenant is being deleted, and ends. One that was given up makes nothing any more.
    let making: bool = sqlx::query_scalar(
        "WITH given_up AS (UPDATE run SET state = 'undone', finished_at = clock_timestamp()
                            WHERE tenant = $1 AND kind = $2 AND state = 'stuck')
         SELECT EXISTS (SELECT FROM run WHERE tenant = $1 AND kind = $2
                                          AND state IN ('pending', 'running', 'undoing'))",
    )
    .bind(tenant)
    .bind(RESOURCES.name)
    .fetch_one(&mut *control)
    .await?;
    if making {
        return Err(Error::new(&codes::INFRA_UNAVAILABLE)
            .detail("its resources are being made at this moment")
            .retry_after(Duration::from_secs(5)));
    }
    let row = tenant_find(&mut control, &TenantRef::Id(tenant)).await?;
    // Given back before the cloud is asked, which takes its time.
    drop(control);
    let target = Target::Tenant(whose(hands, &row));
    told(hands, held, |cloud, report| async move { cloud.destroy(&target, report).await }).await.map(drop)
}

pub(super) fn whose(hands: &Hands, row: &TenantRow) -> TenantCloud {
    // Derived: it is the same at each attempt, and nobody has to keep it.
    let secret = hands.master.link_secret("tenant_cloud", &row.id.to_string(), 1);
    TenantCloud { tenant: row.id, slug: row.slug.clone(), tier: row.tier, secret: secret.into() }
}

/// Carries something out in the cloud, and tells followers of the run how far it is meanwhile.
pub(super) async fn told<T, W>(
    hands: &Hands,
    held: &Held,
    work: impl FnOnce(Arc<dyn Provision>, Report) -> W,
) -> Result<T>
where
    W: Future<Output = Result<T>>,
{
    let cloud = hands.cloud.get()?;
    let (tell, mut heard) = watch::channel(RunProgress::default());
    let report: Report = Arc::new(move |progress| drop(tell.send_replace(progress)));
    let telling = async {
        // Ends when nobody is left to report.
        while heard.changed().await.is_ok() {
            let progress = heard.borrow_and_update().clone();
            // A follower that misses one sees the next.
            if let Err(error) = run_progress(&hands.cp.db, held.id, held.fence, &progress).await {
                tracing::debug!(?error, "how far a run is could not be told");
            }
            tokio::time::sleep(TELL).await;
        }
        std::future::pending::<()>().await
    };
    tokio::select! {
        done = work(cloud, report) => done,
        () = telling => unreachable!("it waits for ever"),
    }
}
