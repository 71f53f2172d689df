//! Tenants on every shard, each with a key and a project, and the books: whatever was promised to one of them has to be
//! found in its schema, once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{StreamExt, iter};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use super::traffic::{Ask, Group, client, send};
use super::window::Window;
use crate::control_plane::tenants::TenantDetail;
use crate::kernel::Role;
use crate::testkit::{TestApp, eventually};

/// One in so many requests writes, under an `Idempotency-Key`; the others read.
const WRITES: u64 = 5;
/// How long a promise that was not kept is asked for again.
const REPEAT: Duration = Duration::from_secs(30);

/// A tenant that asks.
#[derive(Clone, Debug)]
pub struct Resident {
    pub slug: String,
    pub key: String,
    pub detail: TenantDetail,
    project: String,
}

/// Residents by shard.
pub struct Town {
    pub app: TestApp,
    pub shards: Vec<Arc<Vec<Resident>>>,
}

/// What the books say of one shard's writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Books {
    /// Writes that were asked for.
    pub asked: usize,
    /// Those whose first try was answered by success.
    pub acknowledged: usize,
    /// Those that were asked for again until they were acknowledged.
    pub repeated: usize,
    /// Repeats that were given an earlier try's answer: its commit had happened, and nobody had heard.
    pub replayed: usize,
    /// Acknowledged writes, of the first try or a repeat, that are not there.
    pub lost: usize,
    /// Writes that are there more than once.
    pub doubled: usize,
}

impl Resident {
    /// A request that reads.
    pub fn get(&self, base: &str, path: &str) -> Ask {
        Ask {
            method: Method::GET,
            url: format!("{base}{path}"),
            host: format!("{}.localhost", self.slug),
            key: self.key.clone(),
            body: None,
            once: None,
        }
    }
}

impl Town {
    /// At least `each` residents on every shard of the app's world.
    ///
    /// # Panics
    /// When one cannot be made.
    pub async fn settle(app: TestApp, each: usize) -> Self {
        let mut shards: Vec<Vec<Resident>> = app.world.shards.iter().map(|_| Vec::new()).collect();
        for number in 0.. {
            if shards.iter().all(|residents| residents.len() >= each) {
                break;
            }
            assert!(number < each * shards.len() * 3, "tenants go to some shards only");
            let slug = format!("resident-{number}");
            let made = app.world.tenant(&slug).await;
            let on = app.world.shards.iter().position(|s| Some(&s.name) == made.tenant.shard.as_ref());
            let key = app.key(&slug, Role::Owner).await;
            let resident = Resident { slug, key, detail: made, project: String::new() };
            shards[on.expect("a shard")].push(resident);
        }
        iter(shards.iter_mut().flatten())
            .for_each_concurrent(4, |resident| async {
                // The town is not what is measured: a machine with too much to do gets time for it.
                resident.project = eventually(REPEAT, "a project", async || {
                    let ask = app.request(Method::POST, &resident.slug, &resident.key, "/api/v1/projects");
                    let (status, made) = app.send(ask.json(&json!({ "name": "chaos" }))).await;
                    let id = made["id"].as_str().filter(|_| status == 201);
                    id.map(str::to_owned).ok_or_else(|| format!("{status} {made}"))
                })
                .await;
            })
            .await;
        Self { app, shards: shards.into_iter().map(Arc::new).collect() }
    }

    /// Load of one shard's residents in turn, mostly reading. `label` keeps its writes apart from another load's.
    pub fn group(&self, shard: usize, name: &'static str, label: &str, rate: f64) -> Group {
        let (residents, base, label) =
            (self.shards[shard].clone(), self.app.replicas[0].url(""), label.to_owned());
        Group { name, rate, make: Box::new(move |number| ask(&residents, &base, &label, number)) }
    }

    /// Reading load of all residents in turn, to any server of the world.
    pub fn reading(&self, name: &'static str, rate: f64, base: &str) -> Group {
        let all: Vec<Resident> = self.shards.iter().flat_map(|residents| residents.iter()).cloned().collect();
        let base = base.to_owned();
        let make = move |number: u64| {
            let resident = &all[number as usize % all.len()];
            resident.get(&base, &format!("/api/v1/projects/{}", resident.project))
        };
        Group { name, rate, make: Box::new(make) }
    }

    /// Asks again for every write of the window that was not acknowledged, with its key, until it is, and then looks
    /// into the shard for each.
    ///
    /// # Panics
    /// When the shard cannot be read, or a repeat gets no success in time.
    pub async fn balance(&self, shard: usize, label: &str, seen: &Window) -> Books {
        let (residents, base) = (&self.shards[shard], self.app.replicas[0].url(""));
        let client = client();
        let mut books = Books::default();
        for event in seen.events.iter().filter(|event| event.once) {
            books.asked += 1;
            if event.is_right() {
                books.acknowledged += 1;
                continue;
            }
            books.repeated += 1;
            let (ask, until) = (ask(residents, &base, label, event.number), Instant::now() + REPEAT);
            loop {
                let again = send(&client, &ask, event.number, Instant::now()).await;
                if again.is_right() {
                    books.replayed += usize::from(again.replayed);
                    break;
                }
                assert!(Instant::now() < until, "no success after the fault: {again:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let there = self.there(shard, label).await;
        for event in seen.events.iter().filter(|event| event.once) {
            match there.get(&title(label, event.number)) {
                None => books.lost += 1,
                Some(1) => {}
                Some(_) => books.doubled += 1,
            }
        }
        books
    }

    /// The rows that a load's writes have left, by title.
    async fn there(&self, shard: usize, label: &str) -> HashMap<String, i64> {
        let mut there = HashMap::new();
        for resident in self.shards[shard].iter() {
            // As the resident, and not through a proxy.
            let login = self.app.world.tenant_login(&resident.detail);
            let mut conn = PgConnection::connect_with(&login).await.expect("the shard");
            let rows: Vec<(String, i64)> =
                sqlx::query_as("SELECT title, count(*) FROM tasks WHERE starts_with(title, $1) GROUP BY 1")
                    .bind(format!("{label} "))
                    .fetch_all(&mut conn)
                    .await
                    .expect("the resident's tasks");
            there.extend(rows);
        }
        there
    }
}

/// The `number`-th request of a load: the same each time it is asked for.
fn ask(residents: &[Resident], base: &str, label: &str, number: u64) -> Ask {
    let resident = &residents[number as usize % residents.len()];
    // Each resident comes to each kind of request in turn.
    let kind = (number / residents.len() as u64) % WRITES;
    match kind {
        0 => {
            let new = json!({ "project_id": resident.project, "title": title(label, number) });
            let ask = resident.get(base, "/api/v1/tasks");
            Ask { method: Method::POST, body: Some(new), once: Some(title(label, number)), ..ask }
        }
        1 => resident.get(base, "/api/v1/tasks?limit=20"),
        _ => resident.get(base, &format!("/api/v1/projects/{}", resident.project)),
    }
}

fn title(label: &str, number: u64) -> String {
    format!("{label} {number}")
}
