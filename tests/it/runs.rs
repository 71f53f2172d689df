//! Runs: each step repeated, each undo repeated, a stale holder stopped (trust C2, C3, C4).

use freehold::control_plane::access::{self, tenant_delete, tenant_purge, tenant_suspend};
use freehold::control_plane::provisioning::{self, NewTenant};
use freehold::control_plane::tenants::{TenantRef, TenantState};
use freehold::control_plane::{Hands, runs, slots};
use freehold::jobs::run::{RunState, run_by_id};
use freehold::jobs::saga::{self, Effect, Held, Kind};
use freehold::kernel::ids::RunId;
use freehold::kernel::{Error, Result, codes};
use freehold::testkit::{World, tester};
use sqlx::{Connection, PgConnection};

use crate::provisioning::TABLES;

fn named(slug: &str) -> TenantRef {
    TenantRef::Slug(slug.to_owned())
}

async fn record(world: &World, slug: &str) -> RunId {
    world.create(&NewTenant { slug: slug.to_owned(), name: None, plan: None }).await.unwrap()
}

pub async fn hold(world: &World, run: RunId) -> Held {
    saga::lease(world.db(), "test", Some(run)).await.unwrap().expect("the run is free")
}

/// Lets another worker take the run, as if this one had been silent too long.
pub async fn expire(world: &World, run: RunId) {
    sqlx::query("UPDATE run SET leased_until = clock_timestamp() - interval '1 second', not_before = clock_timestamp() WHERE id = $1")
        .bind(run)
        .execute(world.db())
        .await
        .unwrap();
}

/// One step's effect and what it changes in the control database, without the record.
pub async fn once(world: &World, held: &Held, effect: Effect<Hands>) -> Result<()> {
    let Some(writes) = effect(&world.hands, held).await? else { return Ok(()) };
    let mut tx = world.db().begin().await?;
    held.confirm(&mut tx).await?;
    writes(&mut tx).await?;
    Ok(tx.commit().await?)
}

pub async fn every_step_twice(world: &World, kind: &Kind<Hands>, run: RunId) {
    let held = hold(world, run).await;
    for step in kind.steps {
        for time in ["first", "second"] {
            once(world, &held, step.run)
                .await
                .unwrap_or_else(|e| panic!("{}, {time} time: {e:?}", step.name));
        }
    }
    expire(world, run).await;
    assert_eq!(world.finish(run).await.state, RunState::Done);
}

#[tokio::test]
async fn each_step_of_each_run_may_be_done_twice() {
    let world = World::new(&TABLES).await;
    let cp = &world.hands.cp;
    let run = record(&world, "acme").await;
    every_step_twice(&world, &provisioning::PROVISION, run).await;
    let tenant = world.show("acme").await;
    assert_eq!(tenant.tenant.state, TenantState::Active);
    PgConnection::connect_with(&world.tenant_login(&tenant)).await.unwrap();

    let run = tenant_suspend(cp, &tester(), &named("acme"), "twice").await.unwrap();
    every_step_twice(&world, &access::SUSPEND, run).await;
    let run = access::tenant_resume(cp, &tester(), &named("acme")).await.unwrap();
    every_step_twice(&world, &access::RESUME, run).await;
    PgConnection::connect_with(&world.tenant_login(&tenant)).await.unwrap();
    let run = tenant_delete(cp, &tester(), &named("acme"), "twice").await.unwrap();
    every_step_twice(&world, &access::DELETE, run).await;
    let run = access::tenant_undelete(cp, &tester(), &named("acme")).await.unwrap();
    every_step_twice(&world, &access::UNDELETE, run).await;
    let run = tenant_delete(cp, &tester(), &named("acme"), "twice").await.unwrap();
    world.finish(run).await;
    let run = tenant_purge(cp, &tester(), &named("acme"), true).await.unwrap();
    every_step_twice(&world, &access::PURGE, run).await;
    assert_eq!(world.orphans().await, Vec::<String>::new());
    let places: i64 =
        sqlx::query_scalar("SELECT sum(tenants)::bigint FROM shard").fetch_one(world.db()).await.unwrap();
    assert_eq!(places, 0, "each place was given back once");

    // The kinds above are all there are, but for the one that every World begins with and the two in `infra.rs`.
    assert_eq!(runs::KINDS.len(), 9);
}

/// Fails at each step in turn and undoes three times over.
#[tokio::test]
async fn a_failed_provisioning_leaves_nothing_behind() {
    let world = World::new(&TABLES).await;
    let kind = &provisioning::PROVISION;
    for reached in 0..=kind.steps.len() {
        let run = record(&world, "acme").await;
        let held = hold(&world, run).await;
        for step in &kind.steps[..reached] {
            once(&world, &held, step.run).await.unwrap();
        }
        if reached == kind.steps.len() {
            // Everything is done: from here it is a tenant, and only a purge removes it.
            expire(&world, run).await;
            world.finish(run).await;
            break;
        }
        for _ in 0..3 {
            for step in kind.steps.iter().rev() {
                if let Some(undo) = step.undo {
                    once(&world, &held, undo).await.unwrap();
                }
            }
        }
        sqlx::query("UPDATE run SET state = 'undone' WHERE id = $1")
            .bind(run)
            .execute(world.db())
            .await
            .unwrap();
        slots::repair(&world.hands).await.unwrap();
        assert_eq!(world.orphans().await, Vec::<String>::new(), "after {reached} steps");
        let left: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM placement) + (SELECT count(*) FROM slot) + (SELECT sum(tenants) FROM shard)::bigint",
        )
        .fetch_one(world.db())
        .await
        .unwrap();
        assert_eq!(left, 0, "after {reached} steps");
    }
    assert_eq!(world.show("acme").await.tenant.state, TenantState::Active);
}

/// The whole engine on a failure that is there to stay: the run turns round, and the slug is free again.
#[tokio::test]
async fn a_step_that_fails_for_good_undoes_the_run() {
    let world = World::new(&TABLES).await;
    let run = record(&world, "acme").await;
    // The schema's name is taken by something else on both shards.
    let schema: String =
        sqlx::query_scalar("SELECT schema_name FROM placement").fetch_one(world.db()).await.unwrap();
    for index in 0..2 {
        let sql = format!("CREATE SCHEMA {schema}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *world.shard_conn(index).await).await.unwrap();
    }
    let ended = world.finish(run).await;
    assert_eq!(ended.state, RunState::Undone);
    assert!(ended.error.is_some(), "the reason stays on record");
    world.tenant("acme").await;
}

/// C4: the worker whose lease ran out is stopped on the shard and in the record, whatever it still believes.
#[tokio::test]
async fn a_stale_worker_is_stopped_by_its_fencing_number() {
    let world = World::new(&TABLES).await;
    let run = record(&world, "acme").await;
    let stale = hold(&world, run).await;
    expire(&world, run).await;
    assert_eq!(world.finish(run).await.state, RunState::Done);
    let tenant = world.show("acme").await;

    let run = tenant_delete(&world.hands.cp, &tester(), &named("acme"), "gone").await.unwrap();
    world.finish(run).await;
    let run = tenant_purge(&world.hands.cp, &tester(), &named("acme"), true).await.unwrap();
    world.finish(run).await;
    // Now the first worker wakes up and goes on where it was. Without raise_fence its schema would come back; without
    // Held::confirm its records would be taken.
    let schema = &provisioning::PROVISION.steps[1];
    let refused = (schema.run)(&world.hands, &stale).await;
    assert!(refused.is_err(), "a purged tenant's schema was made again");
    assert_eq!(world.orphans().await, Vec::<String>::new());
    let activate = &provisioning::PROVISION.steps[3];
    assert!(once(&world, &stale, activate.run).await.unwrap_err().is(&codes::CONFLICT));
    let by_id = TenantRef::Id(tenant.tenant.id);
    let state =
        freehold::control_plane::tenants::tenant_show(&world.hands.cp, &by_id).await.unwrap().tenant.state;
    assert_eq!(state, TenantState::Deleted);
}

/// On the shard itself: a suspended tenant is not let in again by the worker that was resuming it an hour ago.
#[tokio::test]
async fn a_stale_resume_does_not_open_a_suspended_tenant() {
    let world = World::new(&TABLES).await;
    let tenant = world.tenant("acme").await;
    let cp = &world.hands.cp;
    let run = tenant_suspend(cp, &tester(), &named("acme"), "first").await.unwrap();
    world.finish(run).await;
    let run = access::tenant_resume(cp, &tester(), &named("acme")).await.unwrap();
    let stale = hold(&world, run).await;
    expire(&world, run).await;
    world.finish(run).await;
    let run = tenant_suspend(cp, &tester(), &named("acme"), "second").await.unwrap();
    world.finish(run).await;

    assert!((access::RESUME.steps[0].run)(&world.hands, &stale).await.is_err());
    assert!(PgConnection::connect_with(&world.tenant_login(&tenant)).await.is_err());
}

#[tokio::test]
async fn two_changes_of_one_tenant_do_not_interleave() {
    let world = World::new(&TABLES).await;
    world.tenant("acme").await;
    let cp = &world.hands.cp;
    let run = tenant_suspend(cp, &tester(), &named("acme"), "one").await.unwrap();
    let second = tenant_delete(cp, &tester(), &named("acme"), "two").await.unwrap_err();
    assert!(second.is(&codes::STATE_CONFLICT), "{second:?}");
    world.finish(run).await;
    assert_eq!(world.show("acme").await.tenant.state, TenantState::Suspended);
    assert_eq!(run_by_id(&mut world.db().acquire().await.unwrap(), run).await.unwrap().attempts, 1);
}

/// A repair that looked before a run began does not undo the run: its number is lower.
#[tokio::test]
async fn a_repair_that_is_late_does_not_shut_a_resumed_tenant() {
    let world = World::new(&TABLES).await;
    let tenant = world.tenant("acme").await;
    let cp = &world.hands.cp;
    let run = tenant_suspend(cp, &tester(), &named("acme"), "first").await.unwrap();
    world.finish(run).await;
    let late = slots::next_fence(&mut world.db().acquire().await.unwrap()).await.unwrap();
    let run = access::tenant_resume(cp, &tester(), &named("acme")).await.unwrap();
    world.finish(run).await;
    let (shard, _) = world.shard_of(&tenant);
    let schema = freehold::db::schema::Schema {
        name: tenant.schema.as_deref().unwrap(),
        database: shard.database.as_deref().unwrap(),
        credential_version: 1,
        fence: Some(late),
    };
    let refused = schema.fence(&mut world.hands.admin(shard).await.unwrap()).await.unwrap_err();
    assert!(refused.is(&codes::CONFLICT));
    PgConnection::connect_with(&world.tenant_login(&tenant)).await.unwrap();
}

/// A run whose end was committed, and the answer lost: whoever held it must not turn it round, which would take the
/// schema away from under an active tenant. Shown to fail: without `leased_until IS NOT NULL` in `Held::confirm`.
#[tokio::test]
async fn a_run_that_has_ended_is_nobodys() {
    let world = World::new(&TABLES).await;
    let run = record(&world, "acme").await;
    let held = hold(&world, run).await;
    held.confirm(&mut world.db().begin().await.unwrap()).await.unwrap();
    let state = runs::drive(&world.hands, &held).await.unwrap();
    assert_eq!(state, RunState::Done);
    assert!(held.confirm(&mut world.db().begin().await.unwrap()).await.unwrap_err().is(&codes::CONFLICT));
}

/// Guard: `catch_unwind` in `saga::in_time`. Without it the panic ends the task that carries the run out: the run stays
/// leased and is taken again every ten seconds for ever, and nobody is told.
#[tokio::test]
async fn a_step_that_panics_is_a_failure_like_any_other() {
    static PANICS: Kind<Hands> = Kind {
        name: "suspend",
        steps: &[saga::StepDef {
            name: "fence",
            run: |_, _| Box::pin(async { panic!("a step of a test") }),
            undo: None,
        }],
        on_failure: saga::OnFailure::Retry,
        pace: saga::Pace::Quick,
    };
    let world = World::new(&TABLES).await;
    world.tenant("acme").await;
    let run = tenant_suspend(&world.hands.cp, &tester(), &named("acme"), "test").await.unwrap();
    for (refusals, ends) in [(0, RunState::Pending), (29, RunState::Stuck)] {
        sqlx::query("UPDATE run SET refusals = $2 WHERE id = $1")
            .bind(run)
            .bind(refusals)
            .execute(world.db())
            .await
            .unwrap();
        expire(&world, run).await;
        let held = hold(&world, run).await;
        assert_eq!(saga::drive(world.db(), &world.hands, &PANICS, &held).await.unwrap(), ends);
    }
    let stuck = run_by_id(&mut world.db().acquire().await.unwrap(), run).await.unwrap();
    assert!(stuck.error.unwrap().contains("panicked"));
}

/// What is away for long makes no refusal final that comes after it, and neither does what was refused before the last step
/// that was done. Guards: `refusals` in `put_back`, and `goes_on` in `saga::RECORD`.
#[tokio::test]
async fn only_refusals_in_a_row_wear_a_run_out() {
    use std::sync::atomic::{AtomicU8, Ordering};
    // 0: away; 1: refused; 2: done.
    static WEATHER: AtomicU8 = AtomicU8::new(0);
    fn step<'a>(
        _: &'a Hands,
        _: &'a saga::Held,
    ) -> futures_util::future::BoxFuture<'a, Result<Option<saga::Writes>>> {
        Box::pin(async {
            match WEATHER.load(Ordering::SeqCst) {
                0 => Err(Error::new(&codes::INFRA_UNAVAILABLE)),
                1 => Err(Error::new(&codes::INFRA_FAILED)),
                _ => Ok(None),
            }
        })
    }
    fn refused<'a>(
        _: &'a Hands,
        _: &'a saga::Held,
    ) -> futures_util::future::BoxFuture<'a, Result<Option<saga::Writes>>> {
        Box::pin(async { Err(Error::new(&codes::INFRA_FAILED)) })
    }
    static CLOUD: Kind<Hands> = Kind {
        name: "suspend",
        steps: &[saga::StepDef { name: "fence", run: step, undo: None }],
        on_failure: saga::OnFailure::Retry,
        pace: saga::Pace::Quick,
    };
    static TWO: Kind<Hands> = Kind {
        name: "suspend",
        steps: &[
            saga::StepDef { name: "fence", run: step, undo: None },
            saga::StepDef { name: "then", run: refused, undo: None },
        ],
        on_failure: saga::OnFailure::Retry,
        pace: saga::Pace::Quick,
    };
    let world = World::new(&TABLES).await;
    let attempt = async |run, kind: &Kind<Hands>, weather: u8| {
        WEATHER.store(weather, Ordering::SeqCst);
        expire(&world, run).await;
        let held = hold(&world, run).await;
        saga::drive(world.db(), &world.hands, kind, &held).await.unwrap()
    };
    world.tenant("acme").await;
    let run = tenant_suspend(&world.hands.cp, &tester(), &named("acme"), "test").await.unwrap();
    for _ in 0..40 {
        assert_eq!(attempt(run, &CLOUD, 0).await, RunState::Pending);
    }
    for _ in 0..29 {
        assert_eq!(attempt(run, &CLOUD, 1).await, RunState::Pending);
    }
    assert_eq!(attempt(run, &CLOUD, 0).await, RunState::Pending);
    // The step is done, and the next one is refused: that is its first time.
    assert_eq!(attempt(run, &TWO, 2).await, RunState::Pending);
    for _ in 0..28 {
        assert_eq!(attempt(run, &TWO, 2).await, RunState::Pending);
    }
    assert_eq!(attempt(run, &TWO, 2).await, RunState::Stuck);
}

/// The control database's clock goes back by an hour while a worker dies and another attempt waits. Guard: `AHEAD` in
/// `saga::lease`. Without it both runs stand still for an hour.
#[tokio::test]
async fn a_clock_that_goes_back_does_not_hold_up_a_run() {
    let world = World::new(&TABLES).await;
    for (slug, then) in [("leased", "leased_until"), ("waiting", "not_before")] {
        world.tenant(slug).await;
        let run = tenant_suspend(&world.hands.cp, &tester(), &named(slug), "test").await.unwrap();
        let ahead = format!("UPDATE run SET {then} = clock_timestamp() + interval '1 hour' WHERE id = $1");
        sqlx::query(sqlx::AssertSqlSafe(ahead)).bind(run).execute(world.db()).await.unwrap();
        assert_eq!(world.finish(run).await.state, RunState::Done);
    }
    // What may be in force is respected.
    let run = record(&world, "held").await;
    for then in ["leased_until", "not_before"] {
        let ahead =
            format!("UPDATE run SET {then} = clock_timestamp() + interval '30 seconds' WHERE id = $1");
        sqlx::query(sqlx::AssertSqlSafe(ahead)).bind(run).execute(world.db()).await.unwrap();
        assert!(saga::lease(world.db(), "test", Some(run)).await.unwrap().is_none(), "{then}");
    }
}
