//! What the control plane does about clouds, with one that is kept in memory. What a real one does to it is in
//! `terraform.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use freehold::control_plane::access::{tenant_delete, tenant_purge, tenant_undelete};
use freehold::control_plane::doctor;
use freehold::control_plane::infra::lookout::{self, Look, LookFilter};
use freehold::control_plane::infra::resources::{RESOURCES, ResourcesState, begin_due};
use freehold::control_plane::infra::targets::{may_apply, may_destroy, target};
use freehold::control_plane::infra::{
    Changed, Cloud, Planned, Provision, Recorded, Report, ShardCloud, Shown, Target, TenantCloud, owners,
};
use freehold::control_plane::tenants::{TenantDetail, TenantRef, TenantState};
use freehold::db::stand_in;
use freehold::jobs::run::{Run, RunFilter, RunProgress, RunState, run_list};
use freehold::kernel::ids::{RunId, TenantId};
use freehold::kernel::{Error, Result, codes};
use freehold::testkit::{Cluster, World, tester};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;

use crate::provisioning::TABLES;

/// A cloud in memory.
#[derive(Default)]
pub struct Sky {
    pub there: Mutex<BTreeSet<TenantId>>,
    pub servers: Mutex<BTreeSet<String>>,
    pub no_network: AtomicBool,
    secrets: Mutex<BTreeSet<String>>,
    /// Where somebody has changed something by hand.
    changed: Mutex<BTreeSet<TenantId>>,
    /// What belongs to nobody.
    lost: Mutex<Vec<String>>,
    /// States that no setting names.
    states: Mutex<Vec<Recorded>>,
    /// Whom it was told to be at work when it was last asked for orphans.
    at_work: Mutex<Vec<String>>,
    /// Shards that the settings describe.
    described: Mutex<Vec<String>>,
    /// Where the servers of whatever is shown are reached.
    hosts: Mutex<Vec<String>>,
    /// Answers to nobody for a while.
    pub away: AtomicBool,
}

pub struct InMemory(pub Arc<Sky>);

fn tenant_of(target: &Target) -> &TenantCloud {
    match target {
        Target::Tenant(whose) => whose,
        other => panic!("nobody asked for {other:?}"),
    }
}

/// Where the databases of its servers are, as beside a stand-in for AWS.
async fn ground() -> PgConnectOptions {
    let url = Cluster::shared().await.server(1).admin_url("postgres");
    stand_in::server(&SecretString::from(url)).expect("a server of this machine")
}

impl Provision for InMemory {
    fn plan<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Planned>> {
        Box::pin(async move {
            self.0.answer()?;
            if matches!(target, Target::Shard(_)) {
                return Err(Error::new(&codes::INFRA_FAILED).detail("no server of this name"));
            }
            let tenant = tenant_of(target).tenant;
            let address = "module.tenant.aws_iam_role.this".to_owned();
            let changed = Changed { address, action: "update".to_owned() };
            let drift = if self.0.changed.lock().contains(&tenant) { vec![changed] } else { Vec::new() };
            Ok(Planned { changes: drift.clone(), drift })
        })
    }

    fn apply<'a>(&'a self, target: &'a Target, report: Report) -> BoxFuture<'a, Result<Value>> {
        Box::pin(async move {
            self.0.answer()?;
            if let Target::Shard(ShardCloud { name, made_for: Some(made_for) }) = target {
                let made = stand_in::make(&ground().await, name, &made_for.admin_password).await?;
                self.0.servers.lock().insert(name.clone());
                let stand_in::Made { host, port, database, admin } = made;
                return Ok(
                    json!({ "address": format!("postgres://{admin}@{host}:{port}/{database}?sslmode=disable") }),
                );
            }
            let whose = tenant_of(target);
            report(RunProgress { done: 1, planned: 2, working: vec!["a.b".to_owned()] });
            self.0.note(whose);
            self.0.changed.lock().remove(&whose.tenant);
            Ok(json!({ "id": whose.tenant }))
        })
    }

    fn destroy<'a>(&'a self, target: &'a Target, _: Report) -> BoxFuture<'a, Result<Vec<String>>> {
        Box::pin(async move {
            self.0.answer()?;
            if let Target::Shard(ShardCloud { name, .. }) = target {
                stand_in::remove(&ground().await, name).await?;
                self.0.servers.lock().remove(name);
                return Ok(Vec::new());
            }
            self.0.there.lock().remove(&tenant_of(target).tenant);
            Ok(Vec::new())
        })
    }

    fn show<'a>(&'a self, _: &'a Target) -> BoxFuture<'a, Result<Shown>> {
        Box::pin(async { Ok(Shown { servers: self.0.hosts.lock().clone(), ..Shown::default() }) })
    }

    fn makes_servers(&self) -> bool {
        !self.0.no_network.load(Ordering::Relaxed)
    }

    fn standing(&self) -> Vec<Target> {
        let shards = self.0.described.lock().clone();
        shards.into_iter().map(|name| Target::Shard(ShardCloud { name, made_for: None })).collect()
    }

    fn orphans<'a>(&'a self, at_work: &'a [String]) -> BoxFuture<'a, Result<Vec<String>>> {
        Box::pin(async {
            self.0.answer()?;
            *self.0.at_work.lock() = at_work.to_vec();
            Ok(self.0.lost.lock().clone())
        })
    }

    fn states(&self) -> BoxFuture<'_, Result<Vec<Recorded>>> {
        Box::pin(async { Ok(self.0.states.lock().clone()) })
    }
}

impl Sky {
    pub fn cloud(self: &Arc<Self>) -> Cloud {
        Cloud::new(InMemory(self.clone()))
    }

    fn answer(&self) -> Result<()> {
        if self.away.load(Ordering::Relaxed) { Err(Error::new(&codes::INFRA_UNAVAILABLE)) } else { Ok(()) }
    }

    fn note(&self, whose: &TenantCloud) {
        use secrecy::ExposeSecret;
        self.there.lock().insert(whose.tenant);
        self.secrets.lock().insert(whose.secret.expose_secret().to_owned());
    }

    fn has(&self, tenant: &TenantDetail) -> bool {
        self.there.lock().contains(&tenant.tenant.id)
    }
}

pub async fn world() -> (World, Arc<Sky>) {
    let mut world = World::new(&TABLES).await;
    let sky = Arc::new(Sky::default());
    world.hands.cloud = sky.cloud();
    (world, sky)
}

/// The open runs that make resources.
async fn making(world: &World) -> Vec<Run> {
    let filter = RunFilter { open: Some(true), ..RunFilter::default() };
    let mut runs = run_list(&mut world.db().acquire().await.unwrap(), &filter).await.unwrap().items;
    runs.retain(|run| run.kind == RESOURCES.name);
    runs
}

/// Begins what is due, which is for one tenant, and gives its run.
async fn begun(world: &World) -> RunId {
    assert_eq!(begin_due(&world.hands).await.unwrap(), 1);
    let runs = making(world).await;
    assert_eq!(runs.len(), 1);
    runs[0].id
}

fn acme() -> TenantRef {
    TenantRef::Slug("acme".to_owned())
}

/// The tenant answers at once. What it has in the cloud comes behind it, once.
#[tokio::test]
async fn resources_follow_the_tenant() {
    let (world, sky) = world().await;
    let tenant = world.tenant_with("acme", "business").await;
    assert_eq!(tenant.tenant.state, TenantState::Active);
    assert_eq!(tenant.resources, None);

    let run = begun(&world).await;
    assert_eq!(world.show("acme").await.resources, Some(ResourcesState::Pending));
    assert_eq!(begin_due(&world.hands).await.unwrap(), 0, "it is begun once");
    // What changed the tenant is still its provisioning, which somebody may be waiting for.
    assert_eq!(world.show("acme").await.tenant.run, tenant.tenant.run);
    assert_eq!(world.finish(run).await.state, RunState::Done);
    assert!(sky.has(&tenant));
    assert_eq!(world.show("acme").await.resources, Some(ResourcesState::Ready));
    assert_eq!(begin_due(&world.hands).await.unwrap(), 0);
}

/// A plan that asks for nothing gets nothing; and without a provisioner nobody does.
#[tokio::test]
async fn nothing_is_made_that_nobody_asked_for() {
    let (mut world, _) = world().await;
    world.tenant_with("acme", "free").await;
    assert_eq!(begin_due(&world.hands).await.unwrap(), 0);
    world.tenant_with("globex", "business").await;
    world.hands.cloud = Cloud::default();
    assert_eq!(begin_due(&world.hands).await.unwrap(), 0);
    assert_eq!(world.show("globex").await.resources, None);
}

/// A cloud that is away is waited for, and the secret is the same at each attempt.
#[tokio::test]
async fn a_cloud_that_is_away_is_waited_for() {
    let (world, sky) = world().await;
    let tenant = world.tenant_with("acme", "business").await;
    let run = begun(&world).await;
    sky.away.store(true, Ordering::Relaxed);
    let held = freehold::jobs::saga::lease(world.db(), "test", Some(run)).await.unwrap().unwrap();
    let state = freehold::control_plane::runs::drive(&world.hands, &held).await.unwrap();
    assert_eq!(state, RunState::Pending);
    sky.away.store(false, Ordering::Relaxed);
    assert_eq!(world.finish(run).await.state, RunState::Done);
    assert!(sky.has(&tenant));
    assert_eq!(sky.secrets.lock().len(), 1);
}

/// Purged, it leaves nothing in the cloud. A process that provisions nothing does not forget what is there.
///
/// Guard, not yet seen to fail: with the step `resources` taken out of `PURGE`.
#[tokio::test]
async fn a_purge_leaves_nothing_in_the_cloud() {
    let (mut world, sky) = world().await;
    let tenant = world.tenant_with("acme", "business").await;
    let run = begun(&world).await;
    world.finish(run).await;
    let deleted = tenant_delete(&world.hands.cp, &tester(), &acme(), "test").await.unwrap();
    world.finish(deleted).await;
    assert!(sky.has(&tenant), "for thirty days it may be brought back");

    let purge = tenant_purge(&world.hands.cp, &tester(), &acme(), true).await.unwrap();
    let cloud = std::mem::take(&mut world.hands.cloud);
    let held = freehold::jobs::saga::lease(world.db(), "test", Some(purge)).await.unwrap().unwrap();
    let state = freehold::control_plane::runs::drive(&world.hands, &held).await.unwrap();
    assert_eq!(state, RunState::Pending, "it waits for somebody who can");
    assert!(sky.has(&tenant));
    world.hands.cloud = cloud;
    assert_eq!(world.finish(purge).await.state, RunState::Done);
    assert!(!sky.has(&tenant));
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tenant_resources").fetch_one(world.db()).await.unwrap();
    assert_eq!(rows, 0);
}

/// Deleted before its resources were made: they are not made any more, and the purge finds nothing in its way. Brought
/// back, it gets them.
///
/// Guard, not yet seen to fail: without the look at the tenant's state in `make`.
#[tokio::test]
async fn what_is_on_its_way_out_gets_nothing_more() {
    let (world, sky) = world().await;
    let tenant = world.tenant_with("acme", "business").await;
    let run = begun(&world).await;
    let deleted = tenant_delete(&world.hands.cp, &tester(), &acme(), "test").await.unwrap();
    world.finish(deleted).await;
    assert_eq!(world.finish(run).await.state, RunState::Done);
    assert!(!sky.has(&tenant));

    let back = tenant_undelete(&world.hands.cp, &tester(), &acme()).await.unwrap();
    world.finish(back).await;
    let run = begun(&world).await;
    world.finish(run).await;
    assert!(sky.has(&tenant));
}

/// A purge does not overtake what is being made: it would remove half and forget the rest.
///
/// Guard, not yet seen to fail: without the look for open runs in `resources::remove`.
#[tokio::test]
async fn a_purge_waits_for_what_is_being_made() {
    let (world, sky) = world().await;
    let tenant = world.tenant_with("acme", "business").await;
    let run = begun(&world).await;
    let making = freehold::jobs::saga::lease(world.db(), "test", Some(run)).await.unwrap().unwrap();
    let deleted = tenant_delete(&world.hands.cp, &tester(), &acme(), "test").await.unwrap();
    world.finish(deleted).await;
    let purge = tenant_purge(&world.hands.cp, &tester(), &acme(), true).await.unwrap();
    let held = freehold::jobs::saga::lease(world.db(), "test", Some(purge)).await.unwrap().unwrap();
    let state = freehold::control_plane::runs::drive(&world.hands, &held).await.unwrap();
    assert_eq!(state, RunState::Pending);
    freehold::control_plane::runs::drive(&world.hands, &making).await.unwrap();
    assert_eq!(world.finish(purge).await.state, RunState::Done);
    assert!(!sky.has(&tenant));
}

/// What somebody has changed is found within a day, said by `doctor`, and gone when it was put right.
#[tokio::test]
async fn drift_is_found_once_a_day() {
    let (world, sky) = world().await;
    let tenant = world.tenant_with("acme", "business").await;
    let run = begun(&world).await;
    world.finish(run).await;
    sky.changed.lock().insert(tenant.tenant.id);
    assert_eq!(lookout::look(&world.hands).await.unwrap(), 1, "orphans alone: it was made a moment ago");
    world.hands.cp.clock.advance(chrono::Duration::hours(25));
    assert_eq!(lookout::look(&world.hands).await.unwrap(), 2);
    assert_eq!(lookout::look(&world.hands).await.unwrap(), 0, "once a day");
    assert_eq!(findings(&world).await, ["infra_drift"]);
    let looks = looks(&world).await;
    assert_eq!((looks.len(), looks[0].name.as_str(), looks[0].tenant), (1, "acme", Some(tenant.tenant.id)));
    sky.changed.lock().clear();
    world.hands.cp.clock.advance(chrono::Duration::hours(25));
    assert_eq!(lookout::look(&world.hands).await.unwrap(), 2);
    assert_eq!(findings(&world).await, [""; 0]);
}

/// What `doctor` says of the cloud.
async fn findings(world: &World) -> Vec<String> {
    let report = doctor::examine(&world.hands, |_| {}).await.unwrap();
    let checks = report.findings.into_iter().map(|finding| finding.check);
    checks.filter(|check| check.starts_with("infra_")).collect()
}

async fn looks(world: &World) -> Vec<Look> {
    let mut control = world.db().acquire().await.unwrap();
    lookout::looks(&mut control, &LookFilter::default()).await.unwrap()
}

/// What belongs to nobody is said until it is gone; a cloud that does not answer is asked again within the hour, and what
/// was known is not forgotten meanwhile.
#[tokio::test]
async fn orphans_are_looked_for_every_night() {
    let (world, sky) = world().await;
    sky.lost.lock().push("arn:aws:s3:::forgotten".to_owned());
    assert_eq!(lookout::look(&world.hands).await.unwrap(), 1);
    assert_eq!(findings(&world).await, ["infra_orphans"]);
    sky.away.store(true, Ordering::Relaxed);
    world.hands.cp.clock.advance(chrono::Duration::hours(25));
    assert_eq!(lookout::look(&world.hands).await.unwrap(), 1);
    assert_eq!(findings(&world).await, ["infra_orphans", "infra_look"]);
    sky.away.store(false, Ordering::Relaxed);
    sky.lost.lock().clear();
    assert_eq!(lookout::look(&world.hands).await.unwrap(), 0);
    world.hands.cp.clock.advance(chrono::Duration::minutes(61));
    assert_eq!(lookout::look(&world.hands).await.unwrap(), 1);
    assert_eq!(looks(&world).await.len(), 0);
}

/// A state that neither a setting nor a tenant names is nobody's: what an operator has begun by hand and given up. Whoever
/// is at work is named to the provisioner, whose own notes of that grow old. Guard: `nobodys` in `owners`.
#[tokio::test]
async fn a_state_that_nobody_names_is_an_orphan() {
    let (world, sky) = world().await;
    let tenant = world.tenant_with("acme", "business").await;
    let run = begun(&world).await;
    let id = tenant.tenant.id.to_string();
    *sky.states.lock() = vec![
        Recorded::Shard("eu-2".to_owned()),
        // Registered: the settings do not name it any more, and it is in use.
        Recorded::Shard("shard-1".to_owned()),
        Recorded::Tenant(id.clone()),
        Recorded::Tenant("ten_gone".to_owned()),
    ];
    let found = owners::orphans(&world.hands).await.unwrap();
    assert_eq!(found, ["state shard/eu-2", "state tenant/ten_gone"]);
    assert_eq!(*sky.at_work.lock(), [id]);
    world.finish(run).await;
    owners::orphans(&world.hands).await.unwrap();
    assert_eq!(*sky.at_work.lock(), [""; 0]);
}

/// A shard that could not be looked at was destroyed, or taken out of the settings: that is no finding for ever. Guard:
/// `forget_others` in `lookout`.
#[tokio::test]
async fn what_nobody_names_any_more_is_no_finding() {
    let (world, sky) = world().await;
    sky.described.lock().push("eu-1".to_owned());
    assert_eq!(lookout::look(&world.hands).await.unwrap(), 2, "orphans and the shard");
    assert_eq!(findings(&world).await, ["infra_look"]);
    sky.described.lock().clear();
    lookout::look(&world.hands).await.unwrap();
    assert_eq!(findings(&world).await, [""; 0]);
}

/// A shard is registered under any name: what counts is where its DSN leads, by name or by number. Guards: `leads_nowhere` in
/// `may_destroy`; in it, the comparison of addresses (the upper-case name has another's address), and what cannot be told.
#[tokio::test]
async fn a_server_that_a_registered_shard_leads_to_stays() {
    let (world, sky) = world().await;
    let target = target(&world.hands, "shard/eu-1").await.unwrap();
    let refused = async |host: &str| {
        *sky.hosts.lock() = vec![host.to_owned()];
        let error = may_destroy(&world.hands, &target).await.err()?;
        assert!(error.is(&codes::STATE_CONFLICT), "{error:?}");
        Some(error.public_detail().unwrap().to_owned())
    };
    // Where the tests' shards are.
    for host in ["127.0.0.1", "localhost"] {
        let why = refused(host).await.expect(host);
        assert!(why.contains("shard-1") && why.contains("registered"), "{why}");
    }
    assert_eq!(refused("eu-1.rds.invalid").await, None);
    sqlx::query("UPDATE shard SET admin_dsn_ref = 'env:FREEHOLD_TEST_NOBODY_SAYS' WHERE name = 'shard-1'")
        .execute(world.db())
        .await
        .unwrap();
    let why = refused("eu-1.rds.invalid").await.expect("it cannot be told");
    assert!(why.contains("cannot be told"), "{why}");
    // Never made, or gone already.
    sky.hosts.lock().clear();
    may_destroy(&world.hands, &target).await.unwrap();
}

/// Guard: `may_apply`, which the adapter asks as well.
#[tokio::test]
async fn the_platform_is_looked_at_and_not_applied() {
    let (world, _) = world().await;
    let platform = target(&world.hands, "platform").await.unwrap();
    let error = may_apply(&platform).unwrap_err();
    assert!(error.is(&codes::INFRA_REFUSED));
    assert!(error.public_hint().unwrap().contains("docs/DEPLOY.md"));
    may_apply(&target(&world.hands, "shard/eu-1").await.unwrap()).unwrap();
}

/// What must go another way is not destroyed, and what is not known is not guessed.
#[tokio::test]
async fn only_what_nobody_needs_is_destroyed() {
    let (world, _) = world().await;
    world.tenant_with("acme", "business").await;
    for word in ["platform", "tenant/acme", "shard/shard-1"] {
        let target = target(&world.hands, word).await.unwrap();
        assert!(may_destroy(&world.hands, &target).await.unwrap_err().is(&codes::STATE_CONFLICT), "{word}");
    }
    let unknown = target(&world.hands, "shard/eu-9").await.unwrap();
    may_destroy(&world.hands, &unknown).await.unwrap();
    for word in ["", "shard", "shard/", "acme", "planet/earth"] {
        assert!(target(&world.hands, word).await.unwrap_err().is(&codes::BAD_REQUEST), "{word}");
    }
    assert!(target(&world.hands, "tenant/nobody").await.unwrap_err().is(&codes::TENANT_NOT_FOUND));
}
