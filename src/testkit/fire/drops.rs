//! Requests that are dropped anywhere in their life, through a slow road to the shard (A6): futures that are dropped
//! inside the server, and clients that hang up. What is lent afterwards is looked at: no transaction is open, no setting,
//! temporary table or lock is left; a write is wholly there or not at all, and there if it was acknowledged.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::stream::{StreamExt, iter};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use super::jobs::inside;
use super::resident::{Resident, look};
use crate::data_plane::broker::ShardStats;
use crate::kernel::{Error, Result, codes};
use crate::testkit::figures::Spread;
use crate::testkit::load::{SAMPLES, Tenant, bears, scatter};
use crate::testkit::{Mode, TestApp};

/// How long the broker gets to settle when everybody has gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests of each kind whose whole life is measured before any is dropped.
const WHOLE_LIVES: usize = 24;
/// However busy the machine is, nobody is waited for longer.
const LONGEST_LIFE: Duration = Duration::from_secs(2);
/// Reads of each tenant at once, at the end, so that each connection that is left is lent.
const LAST_LOOKS: usize = 16;

/// How much is dropped.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    pub drops: usize,
    /// Requests under way at a time.
    pub at_once: usize,
    /// Each piece on the road to the shard arrives this much later, in either direction.
    pub latency: Duration,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Requests dropped before they ended, inside the server and by the client, and those that ended first.
    pub dropped_inside: usize,
    pub hung_up: usize,
    pub served: usize,
    /// By the tenth of their usual life at which they were dropped.
    pub by_tenth: [usize; 11],
    pub usual_lives_ms: Vec<(&'static str, Spread)>,
    /// Rows or logins of another tenant that a request was shown, or that lie in a schema.
    pub foreign: usize,
    /// Connections that were lent with something left of an earlier request, or that were left so at the end.
    pub poisoned: usize,
    /// Writes of which a part is there.
    pub torn: usize,
    /// Acknowledged writes that are not there.
    pub lost: usize,
    /// Answers `tenant_busy` and `shard_busy`; `shard_unavailable`, as when the machine is too busy for the broker to
    /// believe that the shard answers; any other failure.
    pub busy: usize,
    pub unavailable: usize,
    pub errors: usize,
    /// Connections neither idle nor closed, requests that wait, permits not back after closing.
    pub not_given_back: usize,
    pub seconds: f64,
    pub failures: Vec<String>,
}

impl Report {
    pub fn dropped(&self) -> usize {
        self.dropped_inside + self.hung_up
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Inside: reads rows, and what the connection was left with.
    Read,
    /// Inside: two rows in one transaction.
    Pair,
    /// Inside: a transaction with a setting, a temporary table and locks, which fails at its end.
    Mess,
    /// Over HTTP: a read, a write.
    Ask,
    Change,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Read, Self::Pair, Self::Mess, Self::Ask, Self::Change];

    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read, inside",
            Self::Pair => "write, inside",
            Self::Mess => "transaction that fails, inside",
            Self::Ask => "read over HTTP",
            Self::Change => "write over HTTP",
        }
    }

    fn inside(self) -> bool {
        matches!(self, Self::Read | Self::Pair | Self::Mess)
    }
}

struct Fire<'a> {
    app: &'a TestApp,
    tenants: &'a [Tenant],
    residents: &'a [Resident],
    tally: Mutex<Report>,
    /// Acknowledged writes: the tenant, and the pair's number or the task's id.
    acknowledged: Mutex<HashSet<(usize, String)>>,
}

/// Drops requests of these tenants until there are enough, and looks at what is left. The app's shards are behind proxies
/// ([`Through::shards`](crate::testkit::Through)), and its broker is closed at the end.
pub async fn run(app: &TestApp, tenants: &[Tenant], residents: &[Resident], plan: Plan) -> Report {
    assert!(!app.proxies.shards.is_empty(), "the road to the shards is not through a proxy");
    allow_messes(app).await;
    app.proxies.shards.iter().for_each(|proxy| proxy.set(Mode::Latency(plan.latency)));
    let fire = Fire { app, tenants, residents, tally: Mutex::default(), acknowledged: Mutex::default() };
    let begun = Instant::now();
    let lives = Mutex::new(fire.whole_lives(plan).await);
    let (next, dropped) = (AtomicUsize::new(0), AtomicUsize::new(0));
    iter(0..plan.at_once)
        .for_each_concurrent(None, async |_| {
            while dropped.load(Relaxed) < plan.drops {
                let number = next.fetch_add(1, Relaxed);
                let draw = scatter(number);
                let (kind, percent) = (Kind::ALL[draw % Kind::ALL.len()], draw / 8 % 101);
                let usual = lives.lock()[kind as usize];
                let begun = Instant::now();
                let life = usual.mul_f64(percent as f64 / 100.0);
                let ended = tokio::time::timeout(life, fire.request(kind, number)).await.is_ok();
                lives.lock()[kind as usize] = now_usual(usual, percent, ended.then(|| begun.elapsed()));
                let mut tally = fire.tally.lock();
                if ended {
                    tally.served += 1;
                } else {
                    dropped.fetch_add(1, Relaxed);
                    tally.by_tenth[percent / 10] += 1;
                    *(if kind.inside() { &mut tally.dropped_inside } else { &mut tally.hung_up }) += 1;
                }
            }
        })
        .await;
    fire.look_around().await;
    let mut report = fire.tally.into_inner();
    report.seconds = begun.elapsed().as_secs_f64();
    report
}

/// How long a life usually is, after one more that ended by itself after `whole`, or that was dropped after `percent` of
/// what was usual. Dropped requests are work too, and the machine may be busier than at first: a life that is not over
/// in its second half makes the usual one longer, so that some always end.
fn now_usual(usual: Duration, percent: usize, whole: Option<Duration>) -> Duration {
    let now = match whole {
        Some(whole) => usual.mul_f64(0.9) + whole.mul_f64(0.1),
        None if percent > 50 => usual.mul_f64(1.05),
        None => usual,
    };
    now.min(LONGEST_LIFE)
}

/// A shard forbids its tenants temporary tables and advisory locks. Here they may, so that what a dropped request could
/// leave behind is really made.
async fn allow_messes(app: &TestApp) {
    for index in 0..app.world.shards.len() {
        sqlx::raw_sql(
            "DO $$ BEGIN EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database()); END $$;
             GRANT EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint) TO PUBLIC",
        )
        .execute(&mut *app.world.shard_conn(index).await)
        .await
        .expect("the admin may grant");
    }
}

impl Fire<'_> {
    fn fails(&self, count: impl FnOnce(&mut Report) -> &mut usize, what: String) {
        let mut tally = self.tally.lock();
        *count(&mut tally) += 1;
        if tally.failures.len() < SAMPLES {
            tally.failures.push(what);
        }
    }

    /// How long each kind usually takes, with as much going on as later.
    async fn whole_lives(&self, plan: Plan) -> Vec<Duration> {
        let mut usual = Vec::new();
        for kind in Kind::ALL {
            let lives: Vec<Duration> = iter(0..WHOLE_LIVES.max(plan.at_once))
                .map(async |number| {
                    let begun = Instant::now();
                    // Numbers that no later request has.
                    self.request(kind, usize::MAX / 2 + number + kind as usize * 10_000).await;
                    begun.elapsed()
                })
                .buffer_unordered(plan.at_once)
                .collect()
                .await;
            let spread = Spread::of(&lives);
            self.tally.lock().usual_lives_ms.push((kind.name(), spread));
            usual.push(Duration::from_secs_f64(spread.p95 / 1_000.0));
        }
        usual
    }

    async fn request(&self, kind: Kind, number: usize) {
        let index = scatter(number ^ 0x2f1e) % self.residents.len();
        let resident = &self.residents[index];
        let outcome = match kind {
            Kind::Read => self.read(resident).await,
            Kind::Pair => {
                let outcome =
                    resident.context.write(async |conn| pair(conn, &resident.stamp, number).await).await;
                if outcome.is_ok() {
                    self.acknowledged.lock().insert((index, number.to_string()));
                }
                outcome
            }
            Kind::Mess => match resident.context.write(mess).await {
                Err(error) if error.is(&codes::CONFLICT) => Ok(()),
                other => other,
            },
            Kind::Ask => return self.ask(index, number).await,
            Kind::Change => return self.change(index, number).await,
        };
        match outcome {
            Ok(()) => {}
            Err(error) if error.is(&codes::TENANT_BUSY) || error.is(&codes::SHARD_BUSY) => {
                self.tally.lock().busy += 1;
            }
            Err(error) if error.is(&codes::SHARD_UNAVAILABLE) => self.tally.lock().unavailable += 1,
            Err(error) => {
                self.fails(
                    |tally| &mut tally.errors,
                    format!("{} {}: {error:?}", kind.name(), resident.slug),
                );
            }
        }
    }

    async fn read(&self, resident: &Resident) -> Result<()> {
        let (left, seen) =
            resident.context.read(async |conn| Ok((leftovers(conn).await?, look(conn).await?))).await?;
        if let Some(left) = left {
            self.fails(|tally| &mut tally.poisoned, format!("{}: lent with {left}", resident.slug));
        }
        if let Some(foreign) = resident.foreign(&seen) {
            self.fails(|tally| &mut tally.foreign, foreign);
        }
        Ok(())
    }

    async fn ask(&self, index: usize, number: usize) {
        let tenant = &self.tenants[index];
        // The first half of the draws are reads.
        let request = tenant.request(number, scatter(number) % 70);
        if let Some((200, body)) = self.send(index, tenant.ask(self.app, &request)).await {
            let rows = body["items"].as_array().map_or(std::slice::from_ref(&body), Vec::as_slice);
            if let Some(row) = rows.iter().find(|row| !bears(row, &tenant.stamp())) {
                self.fails(|tally| &mut tally.foreign, format!("{} was shown {row}", tenant.slug()));
            }
        }
    }

    async fn change(&self, index: usize, number: usize) {
        let tenant = &self.tenants[index];
        let request = tenant.ask(self.app, &tenant.new_task(number));
        if let Some((201, body)) = self.send(index, request).await {
            let id = body["id"].as_str().unwrap_or_default().to_owned();
            self.acknowledged.lock().insert((index, id));
        }
    }

    async fn send(&self, index: usize, request: reqwest::RequestBuilder) -> Option<(u16, Value)> {
        let answer = async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.text().await?))
        };
        match answer.await {
            Ok((status @ (200 | 201), text)) => {
                return Some((status, serde_json::from_str(&text).unwrap_or(Value::Null)));
            }
            Ok((_, text)) if text.contains("\"tenant_busy\"") || text.contains("\"shard_busy\"") => {
                self.tally.lock().busy += 1;
            }
            Ok((_, text)) if text.contains("\"shard_unavailable\"") => self.tally.lock().unavailable += 1,
            Ok((status, text)) => {
                let what = format!("{}: {status} {text}", self.tenants[index].slug());
                self.fails(|tally| &mut tally.errors, what);
            }
            Err(error) => {
                self.fails(|tally| &mut tally.errors, format!("{}: {error:?}", self.tenants[index].slug()));
            }
        }
        None
    }

    /// When everybody has gone: the broker's books, the server's sessions, every connection that is left, every row.
    async fn look_around(&self) {
        let (app, broker) = (self.app, &self.app.replicas[0].http.broker);
        let settled = Instant::now();
        while self.away() > 0 && settled.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for index in 0..app.world.shards.len() {
            let left: Vec<String> = sqlx::query_scalar(
                "SELECT format('%s %s holds %s locks: %s', a.usename, a.state, count(l.pid), a.query)
                   FROM pg_stat_activity a LEFT JOIN pg_locks l ON l.pid = a.pid
                  WHERE a.datname = current_database() AND a.usename ~ '^t_'
                  GROUP BY a.pid, a.usename, a.state, a.query HAVING a.state <> 'idle' OR count(l.pid) > 0
                 UNION ALL
                 SELECT 'the temporary table ' || relname FROM pg_class WHERE relpersistence = 't'",
            )
            .fetch_all(&mut *app.world.shard_conn(index).await)
            .await
            .expect("the shard answers");
            left.into_iter()
                .for_each(|left| self.fails(|tally| &mut tally.poisoned, format!("at the end: {left}")));
        }
        iter(self.residents)
            .for_each_concurrent(4, async |resident| {
                let looks = iter(0..LAST_LOOKS).map(|_| self.read(resident)).buffer_unordered(LAST_LOOKS);
                let refused = looks.filter_map(async |look| look.err()).count().await;
                self.tally.lock().busy += refused;
            })
            .await;
        for (index, resident) in self.residents.iter().enumerate() {
            self.count_rows(index, resident).await;
        }
        broker.close().await;
        // Closed: now every permit has to be back, and no connection open.
        let kept: usize = self.stats().map(|stats| stats.budget - stats.free + stats.open).sum();
        self.tally.lock().not_given_back = self.away() + kept;
    }

    fn stats(&self) -> impl Iterator<Item = ShardStats> {
        let broker = &self.app.replicas[0].http.broker;
        self.app.world.shards.iter().map(|shard| broker.stats(shard.id))
    }

    /// Permits that are neither free nor under an idle connection, and requests that wait.
    fn away(&self) -> usize {
        self.stats()
            .map(|stats| stats.budget - (stats.free + stats.idle).min(stats.budget) + stats.waiting)
            .sum()
    }

    async fn count_rows(&self, index: usize, resident: &Resident) {
        let mut conn = inside(&self.app.world, &self.app.world.show(&resident.slug).await).await;
        let pairs: Vec<(String, i64, bool)> = sqlx::query_as(
            "SELECT split_part(key, '/', 1), count(*), bool_and(convert_from(body, 'UTF8') = $1)
               FROM idempotency WHERE actor = 'fire' GROUP BY 1",
        )
        .bind(&resident.stamp)
        .fetch_all(&mut conn)
        .await
        .expect("the tenant's schema");
        let tasks: Vec<(Option<uuid::Uuid>, bool, bool)> = sqlx::query_as(
            "SELECT t.id, coalesce(starts_with(t.title, $1), true), t.id IS NOT NULL AND a.task_id IS NOT NULL
               FROM tasks t FULL JOIN (SELECT task_id FROM activity WHERE action = 'task.created') a ON a.task_id = t.id",
        )
        .bind(&resident.stamp)
        .fetch_all(&mut conn)
        .await
        .expect("the tenant's schema");
        let slug = &resident.slug;
        for (number, _, own) in pairs.iter().filter(|(_, count, own)| *count != 2 || !own) {
            let count: Count = if *own { torn } else { foreign };
            self.fails(count, format!("{slug}: pair {number}"));
        }
        for (id, own, _) in tasks.iter().filter(|(_, own, whole)| !own || !whole) {
            let count: Count = if *own { torn } else { foreign };
            self.fails(count, format!("{slug}: task {id:?}"));
        }
        let there: HashSet<String> = pairs
            .into_iter()
            .map(|(number, ..)| number)
            .chain(tasks.iter().filter_map(|(id, ..)| Some(crate::kernel::ids::encode("tsk", (*id)?))))
            .collect();
        let acknowledged = self.acknowledged.lock().clone();
        for (_, id) in acknowledged.iter().filter(|(of, id)| *of == index && !there.contains(id)) {
            self.fails(|tally| &mut tally.lost, format!("{slug}: {id} was acknowledged"));
        }
    }
}

type Count = fn(&mut Report) -> &mut usize;

fn torn(tally: &mut Report) -> &mut usize {
    &mut tally.torn
}

fn foreign(tally: &mut Report) -> &mut usize {
    &mut tally.foreign
}

/// What an earlier request has left on this connection, if anything.
async fn leftovers(conn: &mut PgConnection) -> Result<Option<String>> {
    if conn.is_in_transaction() {
        return Ok(Some("a transaction that the client knows of".to_owned()));
    }
    let began: String =
        sqlx::query_scalar("SELECT transaction_timestamp()::text").fetch_one(&mut *conn).await?;
    let (same, wrote, temporary, setting): (bool, bool, bool, String) = sqlx::query_as(
        "SELECT transaction_timestamp()::text = $1, pg_current_xact_id_if_assigned() IS NOT NULL,
                pg_my_temp_schema() <> 0, current_setting('work_mem')",
    )
    .bind(began)
    .fetch_one(conn)
    .await?;
    let left = [
        (same || wrote, "an open transaction"),
        (temporary, "a temporary table"),
        (setting == MESSY_SETTING, "a setting"),
    ];
    Ok(left.into_iter().find_map(|(is, what)| is.then(|| what.to_owned())))
}

/// What [`mess`] sets `work_mem` to. No server comes with it.
const MESSY_SETTING: &str = "123kB";

/// Leaves all that a transaction can leave, and fails.
async fn mess(conn: &mut PgConnection) -> Result<()> {
    sqlx::query("SELECT set_config('work_mem', $1, false)").bind(MESSY_SETTING).execute(&mut *conn).await?;
    sqlx::query("CREATE TEMPORARY TABLE left_behind (n int)").execute(&mut *conn).await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended(session_user, 0))")
        .execute(&mut *conn)
        .await?;
    sqlx::query("SELECT 1 FROM projects FOR UPDATE").execute(conn).await?;
    Err(Error::new(&codes::CONFLICT))
}

/// Two rows that belong together.
async fn pair(conn: &mut PgConnection, stamp: &str, number: usize) -> Result<()> {
    for half in ["a", "b"] {
        sqlx::query(
            "INSERT INTO idempotency (actor, key, request_hash, body) VALUES ('fire', $1, '\\x00', $2)",
        )
        .bind(format!("{number}/{half}"))
        .bind(stamp.as_bytes())
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}
