//! One shard's rows, batch by batch: made ready while the one before is written, written in one transaction.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use super::events::{Fact, Ready, Recorded, record_ready};
use super::late;
use super::meters::{Aggregation, meter_list};
use super::outbox::{Row, Why, fact_of};
use super::relay::{Carried, kind, lease};
use crate::billing::incidents;
use crate::control_plane::ControlPlane;
use crate::control_plane::shards::Shard;
use crate::kernel::Result;
use crate::kernel::ids::{ShardId, TenantId};

/// So many strays of one batch are told of one by one; the incident counts all.
const STRAYS_TOLD: usize = 5;

/// Writes batches of one shard's rows. Lives for one round.
pub(super) struct Carrier<'a> {
    cp: &'a ControlPlane,
    shard: &'a Shard,
    source: Arc<str>,
    meters: HashMap<Arc<str>, Aggregation>,
    /// Whose login is whose, as far as it was asked. Such a name is given to one tenant, ever.
    tenants: HashMap<String, TenantId>,
}

/// Rows of an outbox and what they say.
pub(super) struct Batch {
    pub(super) rows: Vec<Row>,
    facts: Vec<Fact>,
    /// Of each fact, its row.
    of_row: Vec<usize>,
    /// Rows that are no facts.
    strays: Vec<(usize, Why)>,
    ready: Ready,
}

impl<'a> Carrier<'a> {
    pub(super) async fn new(
        cp: &'a ControlPlane,
        shard: &'a Shard,
        control: &mut PgConnection,
    ) -> Result<Self> {
        let meters = meter_list(control).await?;
        let meters = meters.into_iter().map(|meter| (Arc::from(meter.id), meter.aggregation)).collect();
        let source = Arc::from(format!("outbox:{}", shard.name));
        Ok(Self { cp, shard, source, meters, tenants: HashMap::new() })
    }

    /// Asks whose logins these are. One that no placement names stays unknown: its tenant was purged before its last facts
    /// came.
    pub(super) async fn learn(&mut self, control: &mut PgConnection, rows: &[Row]) -> Result<()> {
        let mut roles: Vec<&str> = rows
            .iter()
            .map(|row| row.role_name.as_str())
            .filter(|role| !self.tenants.contains_key(*role))
            .collect();
        roles.sort_unstable();
        roles.dedup();
        if roles.is_empty() {
            return Ok(());
        }
        let known: Vec<(String, TenantId)> =
            sqlx::query_as("SELECT schema_name, tenant FROM placement WHERE schema_name = ANY($1)")
                .bind(roles)
                .fetch_all(control)
                .await?;
        self.tenants.extend(known);
        Ok(())
    }

    /// Whether nobody has to be asked whose logins these are.
    pub(super) fn knows(&self, rows: &[Row]) -> bool {
        rows.iter().all(|row| self.tenants.contains_key(&row.role_name))
    }

    /// Makes rows ready. A login that is not known by now is nobody's.
    pub(super) fn batch(&self, rows: Vec<Row>) -> Result<Batch> {
        let now = self.cp.clock.now();
        let (mut facts, mut of_row) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        let mut strays = Vec::new();
        for (place, row) in rows.iter().enumerate() {
            match fact_of(row, &self.tenants, &self.meters, &self.source, now) {
                Ok(fact) => {
                    facts.push(fact);
                    of_row.push(place);
                }
                Err(why) => strays.push((place, why)),
            }
        }
        let ready = Ready::of(&facts)?;
        Ok(Batch { rows, facts, of_row, strays, ready })
    }

    /// Writes a batch: facts into the ledger, what is none aside, in one transaction, which also keeps the lease. Says
    /// whether the lease is still this worker's.
    pub(super) async fn keep(
        &self,
        control: &mut PgConnection,
        worker: &str,
        batch: &Batch,
    ) -> Result<(Carried, bool)> {
        let Batch { rows, facts, of_row, ready, .. } = batch;
        let now = self.cp.clock.now();
        let mut strays: Vec<(&Row, Why)> =
            batch.strays.iter().map(|(place, why)| (&rows[*place], *why)).collect();
        let mut tx = control.begin().await?;
        let recorded = record_ready(&mut tx, facts, ready).await?;
        let mut carried = Carried::default();
        for (place, recorded) in of_row.iter().zip(&recorded) {
            match recorded {
                Recorded::New(_) => carried.new += 1,
                Recorded::Same(_) => carried.known += 1,
                Recorded::Other => strays.push((&rows[*place], Why::OtherBody)),
            }
        }
        carried.strays = strays.len();
        set_aside(&mut tx, self.shard.id, &strays, now).await?;
        self.tell(&mut tx, &strays, facts, now).await?;
        let held = lease(&mut tx, self.cp, self.shard.id, worker, rows.len()).await?;
        tx.commit().await?;
        Ok((carried, held))
    }

    /// Opens incidents for what a person has to look at.
    async fn tell(
        &self,
        tx: &mut PgConnection,
        strays: &[(&Row, Why)],
        facts: &[Fact],
        now: DateTime<Utc>,
    ) -> Result<()> {
        let shard = &self.shard.name;
        for (kind, of) in [(kind::OTHER_BODY, true), (kind::STRAY, false)] {
            let these = || strays.iter().filter(|(_, why)| (*why == Why::OtherBody) == of);
            let some: Vec<_> = these()
                .take(STRAYS_TOLD)
                .map(|(row, why)| json!({ "outbox_id": row.id, "role": row.role_name, "key": row.key, "why": why.as_str() }))
                .collect();
            if !some.is_empty() {
                let detail = json!({ "rows": these().count(), "first": some });
                incidents::open(&mut *tx, kind, shard, None, detail, now).await?;
            }
        }
        let aside =
            || facts.iter().filter_map(|fact| Some((fact, late::judge(fact.occurred_at, fact.received_at)?)));
        if let Some((fact, why)) = aside().next() {
            let detail = json!({
                "facts": aside().count(), "why": why.as_str(), "first_occurred_at": fact.occurred_at,
                "hint": "a clock that is wrong, or rows that waited for more than 34 days",
            });
            incidents::open(&mut *tx, kind::LATE, shard, Some(fact.tenant), detail, now).await?;
        }
        Ok(())
    }
}

async fn set_aside(
    tx: &mut PgConnection,
    shard: ShardId,
    strays: &[(&Row, Why)],
    now: DateTime<Utc>,
) -> Result<()> {
    if strays.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&Row) -> &str| strays.iter().map(|(row, _)| of(row)).collect::<Vec<&str>>();
    sqlx::query(
        "INSERT INTO usage_stray (shard, outbox_id, role_name, key, payload, at, why, received_at)
         SELECT $1, s.id, s.role_name, s.key, s.payload, s.at, s.why, $8
           FROM unnest($2::int8[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[])
                AS s(id, role_name, key, payload, at, why)
         ON CONFLICT DO NOTHING",
    )
    .bind(shard)
    .bind(strays.iter().map(|(row, _)| row.id).collect::<Vec<i64>>())
    .bind(column(|row| &row.role_name))
    .bind(column(|row| &row.key))
    .bind(column(|row| &row.payload))
    .bind(strays.iter().map(|(row, _)| row.at).collect::<Vec<_>>())
    .bind(strays.iter().map(|(_, why)| why.as_str()).collect::<Vec<&str>>())
    .bind(now)
    .execute(tx)
    .await?;
    Ok(())
}
