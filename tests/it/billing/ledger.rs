//! The ledger: one fact for each key, batches by windows, what is late, corrections.

use chrono::{DateTime, Datelike, Duration, DurationRound, Utc};
use freehold::billing::ledger::{
    Batch, CorrectionState, Fact, NewCorrection, Recorded, Total, batch_by_identifier, books, correction_ask,
    correction_decide, correction_list, facts_of_batch, months, quarantine_list, record, record_many,
    sampler, sealer, totals,
};
use freehold::control_plane::audit::Caller;
use freehold::control_plane::tenants::TenantDetail;
use freehold::identity::operators::{NewOperator, OperatorRole, actor_of, operator_add};
use freehold::kernel::ids::TenantId;
use freehold::kernel::{Role, codes};
use freehold::product::{Current, Product};
use freehold::testkit::{World, WorldOptions};
use futures_util::future::join_all;

use crate::identity::fixture::{person, seat};

/// A world with a tenant, and a moment of it: the beginning of a window that is not over.
pub struct Scene {
    pub world: World,
    pub acme: TenantDetail,
    pub window: DateTime<Utc>,
}

impl Scene {
    pub async fn new() -> Self {
        let options = WorldOptions { shards: 1, tenant_cap: 20, slots: 0, tables: Current::migrations() };
        let world = World::with(options).await;
        let acme = world.tenant_with("acme", "team").await;
        let window = world.hands.cp.clock.now().duration_trunc(Duration::minutes(5)).unwrap();
        Self { world, acme, window }
    }

    pub fn tenant(&self) -> TenantId {
        self.acme.tenant.id
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.world.hands.cp.clock.now()
    }

    /// Sets the control plane's clock.
    pub fn at(&self, moment: DateTime<Utc>) {
        self.world.hands.cp.clock.advance(moment - self.now());
    }

    pub fn fact(&self, key: &str, quantity: i64, occurred_at: DateTime<Utc>) -> Fact {
        Fact {
            tenant: self.tenant(),
            meter: "tasks_created".into(),
            source: "test".into(),
            key: key.to_owned(),
            quantity,
            occurred_at,
            received_at: self.now(),
        }
    }

    async fn say(&self, fact: &Fact) -> freehold::kernel::Result<Recorded> {
        record(&mut self.world.db().acquire().await.unwrap(), fact).await
    }

    pub async fn seal(&self) -> sealer::Sealed {
        sealer::seal(&self.world.hands.cp).await.unwrap()
    }

    /// The tenant's batches, by window and number.
    pub async fn batches(&self) -> Vec<Batch> {
        let mut conn = self.world.db().acquire().await.unwrap();
        let identifiers: Vec<String> = sqlx::query_scalar(
            "SELECT identifier FROM usage_batch WHERE tenant = $1 ORDER BY meter, window_start, seq",
        )
        .bind(self.tenant())
        .fetch_all(&mut *conn)
        .await
        .unwrap();
        let mut batches = Vec::new();
        for identifier in identifiers {
            batches.push(batch_by_identifier(&mut conn, &identifier).await.unwrap().unwrap());
        }
        batches
    }

    pub async fn totals(&self) -> Vec<Total> {
        let (from, to) = (self.window - Duration::days(60), self.window + Duration::days(60));
        totals(&mut self.world.db().acquire().await.unwrap(), from, to).await.unwrap()
    }

    pub async fn count(&self, what: &'static str) -> i64 {
        sqlx::query_scalar(what).fetch_one(self.world.db()).await.unwrap()
    }
}

pub const EVENTS: &str = "SELECT count(*) FROM usage_event";
pub const KEYS: &str = "SELECT count(*) FROM usage_fact_key";

/// §8: same key, same body, three at once: one row, the same answer.
///
/// Shown to fail: let `record_many` take the violation of the key for an error, or give ids of facts that were not written.
#[tokio::test]
async fn said_three_times_at_once_it_is_one_fact() {
    let scene = Scene::new().await;
    for round in 0..10 {
        let fact = scene.fact(&format!("tsk_{round}"), 2, scene.now());
        let said = join_all((0..3).map(|_| scene.say(&fact))).await;
        let said: Vec<Recorded> = said.into_iter().map(Result::unwrap).collect();
        let new: Vec<_> = said.iter().filter(|said| matches!(said, Recorded::New(_))).collect();
        assert_eq!(new.len(), 1, "{said:?}");
        let ids: Vec<_> = said
            .iter()
            .map(|said| match said {
                Recorded::New(id) | Recorded::Same(id) => *id,
                Recorded::Other => panic!("{said:?}"),
            })
            .collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{said:?}");
        // Said again much later, by a later clock: still the same.
        let again = Fact { occurred_at: scene.now() + Duration::minutes(1), ..fact };
        assert_eq!(scene.say(&again).await.unwrap(), Recorded::Same(ids[0]));
    }
    assert_eq!((scene.count(EVENTS).await, scene.count(KEYS).await), (10, 10));
}

/// §8: same key, other body: 409, nothing recorded.
///
/// Shown to fail: leave the quantity out of the hash.
#[tokio::test]
async fn the_same_key_with_another_body_is_refused() {
    let scene = Scene::new().await;
    scene.say(&scene.fact("k", 1, scene.now())).await.unwrap();
    let other = scene.fact("k", 2, scene.now());
    let seats = Fact { meter: "seats".into(), ..scene.fact("k", 1, scene.now()) };
    for contrary in [other, seats] {
        let refused = scene.say(&contrary).await.unwrap_err();
        assert_eq!((refused.code().name, refused.code().status), ("idempotency_conflict", 409));
    }
    assert_eq!((scene.count(EVENTS).await, scene.count(KEYS).await), (1, 1));
    // Another tenant's or another source's key is another key.
    let globex = scene.world.tenant_with("globex", "team").await;
    let theirs = Fact { tenant: globex.tenant.id, ..scene.fact("k", 2, scene.now()) };
    let elsewhere = Fact { source: "test:2".into(), ..scene.fact("k", 2, scene.now()) };
    for new in [theirs, elsewhere] {
        assert!(matches!(scene.say(&new).await.unwrap(), Recorded::New(_)));
    }
}

#[tokio::test]
async fn bad_input_is_refused_and_leaves_nothing() {
    let scene = Scene::new().await;
    let good = scene.fact("k", 1, scene.now());
    for (bad, field) in [
        (Fact { meter: "no_such_meter".into(), ..good.clone() }, "meter"),
        (Fact { quantity: -1, ..good.clone() }, "quantity"),
        (Fact { quantity: 1_000_000_000_001, ..good.clone() }, "quantity"),
        (Fact { quantity: i64::MAX, ..good.clone() }, "quantity"),
        (Fact { key: String::new(), ..good.clone() }, "key"),
        (Fact { key: "x".repeat(201), ..good.clone() }, "key"),
    ] {
        let refused = scene.say(&bad).await.unwrap_err();
        assert_eq!(refused.code().name, "invalid_fields");
        assert_eq!(refused.field_errors()[0].field, field);
    }
    assert_eq!((scene.count(EVENTS).await, scene.count(KEYS).await), (0, 0));
}

/// What arrives together is judged one by one: new, known from before, said twice among them, contrary to either.
#[tokio::test]
async fn many_at_once_are_judged_one_by_one() {
    let scene = Scene::new().await;
    let now = scene.now();
    let known = scene.say(&scene.fact("known", 1, now)).await.unwrap();
    let (Recorded::New(known), mut conn) = (known, scene.world.db().acquire().await.unwrap()) else {
        panic!()
    };
    let facts = [
        scene.fact("new", 1, now),
        scene.fact("known", 1, now),
        scene.fact("new", 1, now),
        scene.fact("new", 7, now),
        scene.fact("known", 7, now),
        scene.fact("last", 3, now),
    ];
    let said = record_many(&mut conn, &facts).await.unwrap();
    let Recorded::New(new) = said[0] else { panic!("{said:?}") };
    assert_eq!(said[1..3], [Recorded::Same(known), Recorded::Same(new)]);
    assert_eq!(said[3..5], [Recorded::Other, Recorded::Other]);
    assert!(matches!(said[5], Recorded::New(_)));
    assert_eq!(scene.count(EVENTS).await, 3);
    // In a transaction that is rolled back, nothing happened.
    let mut tx = scene.world.db().begin().await.unwrap();
    record_many(&mut tx, &[scene.fact("gone", 1, now), scene.fact("known", 1, now)]).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!((scene.count(EVENTS).await, scene.count(KEYS).await), (3, 3));
    assert!(record_many(&mut conn, &[]).await.unwrap().is_empty());
}

/// A window is sealed a minute after its end, once. What comes later is a batch of its own, told as of the same moment.
///
/// Shown to fail: seal at the window's end; begin each seal's numbers at 0.
#[tokio::test]
async fn a_window_is_sealed_once_and_late_facts_follow() {
    let scene = Scene::new().await;
    let (first, second) = (scene.window, scene.window + Duration::minutes(5));
    for (key, quantity, at) in
        [("a", 3, first), ("b", 4, second - Duration::milliseconds(1)), ("c", 5, second)]
    {
        scene.say(&scene.fact(key, quantity, at)).await.unwrap();
    }
    scene.at(first + Duration::seconds(330));
    assert_eq!(scene.seal().await, sealer::Sealed::default());
    scene.at(first + Duration::seconds(361));
    assert_eq!(scene.seal().await, sealer::Sealed { batches: 1, facts: 2 });
    assert_eq!(scene.seal().await, sealer::Sealed::default());
    scene.say(&scene.fact("late", 10, first + Duration::minutes(1))).await.unwrap();
    assert_eq!(scene.seal().await, sealer::Sealed { batches: 1, facts: 1 });

    let batches = scene.batches().await;
    let said: Vec<_> =
        batches.iter().map(|b| (b.seq, b.quantity, b.facts, b.event_at, b.state.as_str())).collect();
    assert_eq!(said, [(0, 7, 2, first, "ready"), (1, 10, 1, first, "ready")]);
    assert_eq!(batches[0].identifier, format!("ub:{}:tasks_created:{}:0", scene.tenant(), first.timestamp()));
    let mut conn = scene.world.db().acquire().await.unwrap();
    let facts = facts_of_batch(&mut conn, batches[0].id, None, 10).await.unwrap();
    assert_eq!(facts.iter().map(|fact| fact.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let after = Some((facts[0].occurred_at, facts[0].id));
    assert_eq!(facts_of_batch(&mut conn, batches[0].id, after, 10).await.unwrap(), facts[1..]);

    let totals = scene.totals().await;
    let total = totals.iter().find(|total| total.meter == "tasks_created").unwrap();
    assert_eq!((total.sum, total.sealed, total.open, total.quarantined), (22, 17, 5, 0));
}

/// Several sealers at once, and facts that arrive meanwhile: every fact is in one batch, and the sums agree.
///
/// Shown to fail: count the facts of a batch in another statement than the one that marks them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealers_at_once_lose_nothing() {
    let scene = Scene::new().await;
    let from = scene.window;
    scene.at(from + Duration::hours(1));
    let write = async {
        for chunk in 0..20 {
            let facts: Vec<Fact> = (0..50)
                .map(|n| {
                    let number = chunk * 50 + n;
                    scene.fact(
                        &format!("k{number}"),
                        1 + number % 7,
                        from + Duration::seconds(number * 13 % 3_000),
                    )
                })
                .collect();
            record_many(&mut scene.world.db().acquire().await.unwrap(), &facts).await.unwrap();
        }
    };
    let seal = || async {
        let mut facts = 0;
        for _ in 0..15 {
            facts += scene.seal().await.facts;
            tokio::task::yield_now().await;
        }
        facts
    };
    let ((), a, b, c) = tokio::join!(write, seal(), seal(), seal());
    let rest = scene.seal().await.facts;
    assert_eq!(a + b + c + rest, 1_000);
    let wrong = scene
        .count(
            "SELECT count(*) FROM usage_batch b
               FULL JOIN (SELECT batch, count(*) AS facts, sum(quantity) AS quantity FROM usage_event GROUP BY batch) e
                 ON e.batch = b.id
              WHERE b.id IS NULL OR e.batch IS NULL OR (e.facts, e.quantity) <> (b.facts, b.quantity)",
        )
        .await;
    assert_eq!(wrong, 0);
    let total = &scene.totals().await[0];
    assert_eq!((total.sum, total.open), (total.sealed, 0));
    assert_eq!(total.sum, (0..1_000).map(|number| 1 + number % 7).sum::<i64>());
}

async fn subscription(scene: &Scene, from: DateTime<Utc>, to: DateTime<Utc>) {
    sqlx::query(
        "INSERT INTO subscription (id, tenant, customer, plan, status, period_start, period_end, fetched_at)
         VALUES ('sub_1', $1, 'cus_1', 'team', 'active', $2, $3, $2)",
    )
    .bind(scene.tenant())
    .bind(from)
    .bind(to)
    .execute(scene.world.db())
    .await
    .unwrap();
}

/// No batch has facts of two billing periods.
///
/// Shown to fail: leave the boundaries out of `periods_of`.
#[tokio::test]
async fn a_window_is_cut_where_a_billing_period_ends() {
    let scene = Scene::new().await;
    let cut = scene.window + Duration::seconds(123);
    subscription(&scene, scene.window - Duration::days(20), cut).await;
    for (key, quantity, at) in [
        ("before", 1, cut - Duration::microseconds(1)),
        ("at", 10, cut),
        ("after", 100, cut + Duration::seconds(60)),
    ] {
        scene.say(&scene.fact(key, quantity, at)).await.unwrap();
    }
    scene.at(scene.window + Duration::seconds(400));
    assert_eq!(scene.seal().await.batches, 2);
    let said: Vec<_> = scene.batches().await.iter().map(|b| (b.seq, b.quantity, b.event_at)).collect();
    assert_eq!(said, [(0, 1, scene.window), (1, 110, cut)]);
}

/// What is late for a period whose invoice is final counts for the next period, and says so.
///
/// Shown to fail: give `told_at` no final periods.
#[tokio::test]
async fn what_is_late_for_a_final_invoice_is_carried_forward() {
    let scene = Scene::new().await;
    let end = scene.window - Duration::days(1);
    subscription(&scene, end, end + Duration::days(30)).await;
    let invoice = |id: &'static str, status: &'static str, from: DateTime<Utc>, to: DateTime<Utc>| {
        sqlx::query(
            "INSERT INTO invoice (id, tenant, status, currency, total_minor, period_start, period_end, created_at, fetched_at)
             VALUES ($1, $2, $3, 'eur', 0, $4, $5, $5, $5)",
        )
        .bind(id)
        .bind(scene.tenant())
        .bind(status)
        .bind(from)
        .bind(to)
        .execute(scene.world.db())
    };
    invoice("in_1", "paid", end - Duration::days(10), end).await.unwrap();
    invoice("in_0", "draft", end - Duration::days(40), end - Duration::days(10)).await.unwrap();
    // A draft of ten days is one that somebody holds, and Stripe knows that.
    sqlx::query("UPDATE invoice SET held = true, hold_told_at = created_at WHERE id = 'in_0'")
        .execute(scene.world.db())
        .await
        .unwrap();
    for (key, days) in [("final", 5), ("draft", 15)] {
        scene.say(&scene.fact(key, 1, end - Duration::days(days))).await.unwrap();
    }
    scene
        .say(&Fact { meter: "seats".into(), ..scene.fact("reading", 9, end - Duration::days(5)) })
        .await
        .unwrap();
    assert_eq!(scene.seal().await.batches, 3);
    let batches = scene.batches().await;
    let said: Vec<_> = batches
        .iter()
        .map(|b| (b.meter.as_str(), b.carried_forward, b.event_at >= end, b.state.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            // A reading of a period that is closed says nothing of the next.
            ("seats", true, true, "void"),
            ("tasks_created", false, false, "ready"),
            ("tasks_created", true, true, "ready"),
        ]
    );
}

/// Where the newest counts, an older reading that comes late tells nothing, and a newer one is newer at Stripe too.
#[tokio::test]
async fn the_newest_reading_wins() {
    let scene = Scene::new().await;
    let reading = |key: &str, quantity, seconds| Fact {
        meter: "seats".into(),
        ..scene.fact(key, quantity, scene.window + Duration::seconds(seconds))
    };
    for (key, quantity, seconds) in [("a", 5, 10), ("b", 8, 20), ("c", 6, 15)] {
        scene.say(&reading(key, quantity, seconds)).await.unwrap();
    }
    scene.at(scene.window + Duration::seconds(400));
    scene.seal().await;
    for (key, quantity, seconds) in [("older", 1, 12), ("newer", 2, 30)] {
        scene.say(&reading(key, quantity, seconds)).await.unwrap();
        scene.seal().await;
    }
    let said: Vec<_> = scene
        .batches()
        .await
        .iter()
        .map(|b| (b.quantity, b.facts, (b.event_at - scene.window).num_seconds(), b.state.clone()))
        .collect();
    let expected = [(8, 3, 0, "ready"), (1, 1, 1, "void"), (2, 1, 2, "ready")];
    assert_eq!(said, expected.map(|(quantity, facts, at, state)| (quantity, facts, at, state.to_owned())));
    let total = &scene.totals().await[0];
    assert_eq!((total.last, total.sum, total.sealed, total.open), (Some(2), 5, 5, 0));
}

/// §8: a clock off by six minutes, a fact 36 days old: kept aside, never sealed, for a person to decide.
///
/// Shown to fail: write no `quarantined`.
#[tokio::test]
async fn too_old_and_from_the_future_are_kept_aside() {
    let scene = Scene::new().await;
    let now = scene.now();
    for (key, at) in [
        ("old", now - Duration::days(36)),
        ("future", now + Duration::minutes(6)),
        ("good", now - Duration::days(33)),
        ("ahead", now + Duration::minutes(4)),
    ] {
        assert!(matches!(scene.say(&scene.fact(key, 1, at)).await.unwrap(), Recorded::New(_)));
    }
    scene.at(now + Duration::hours(1));
    assert_eq!(scene.seal().await.facts, 2);
    let mut conn = scene.world.db().acquire().await.unwrap();
    let aside = quarantine_list(&mut conn, Some(scene.tenant()), 10).await.unwrap();
    let mut said: Vec<_> = aside.iter().map(|fact| (fact.key.as_str(), fact.why.as_str())).collect();
    said.sort_unstable();
    assert_eq!(said, [("future", "future"), ("old", "too_old")]);
    let total = &scene.totals().await[0];
    assert_eq!((total.sum, total.sealed, total.open, total.quarantined), (2, 2, 0, 2));

    // It counts when two people say so, and once.
    let old = aside.iter().find(|fact| fact.key == "old").unwrap();
    let new = NewCorrection { corrects: Some(old.id), ..correction(&scene, 1) };
    let cp = &scene.world.hands.cp;
    let (ada, bob) = (operator(&scene, "ada").await, operator(&scene, "bob").await);
    let asked = correction_ask(cp, &ada, &new).await.unwrap();
    assert!(correction_ask(cp, &bob, &new).await.unwrap_err().is(&codes::STATE_CONFLICT));
    correction_decide(cp, &bob, asked.id, true).await.unwrap();
    assert!(correction_ask(cp, &ada, &new).await.unwrap_err().is(&codes::STATE_CONFLICT));
    let aside = quarantine_list(&mut conn, None, 10).await.unwrap();
    assert!(aside.iter().all(|fact| fact.corrected == (fact.key == "old")), "{aside:?}");
}

/// Months are made ahead; what came before its month was made is moved into it.
#[tokio::test]
async fn months_are_made_ahead() {
    let scene = Scene::new().await;
    let far = scene.now() + Duration::days(400);
    scene.say(&scene.fact("far", 1, far)).await.unwrap();
    let other = "SELECT count(*) FROM usage_months.other";
    assert_eq!(scene.count(other).await, 1);
    scene.at(far);
    let cp = &scene.world.hands.cp;
    assert!(months::months_make(cp).await.unwrap() > 0);
    assert_eq!(months::months_make(cp).await.unwrap(), 0);
    assert_eq!((scene.count(other).await, scene.count(EVENTS).await), (0, 1));
    let partition: String = sqlx::query_scalar("SELECT tableoid::regclass::text FROM usage_event")
        .fetch_one(scene.world.db())
        .await
        .unwrap();
    assert_eq!(partition, format!("usage_months.m{:04}_{:02}", far.year(), far.month()));
    // Two at once make each once.
    scene.at(far + Duration::days(100));
    let (a, b) = tokio::join!(months::months_make(cp), months::months_make(cp));
    assert!(a.unwrap() + b.unwrap() >= 3);
}

fn by(actor: &str) -> Caller {
    Caller { actor: actor.to_owned(), request_id: None }
}

/// An operator who is signed in.
async fn operator(scene: &Scene, name: &str) -> Caller {
    let new = NewOperator {
        email: format!("{name}@example.com"),
        name: name.to_owned(),
        role: OperatorRole::Finance,
    };
    let operator = operator_add(&scene.world.hands.cp, &by("test"), &new).await.unwrap();
    by(&actor_of(operator.id))
}

fn correction(scene: &Scene, quantity: i64) -> NewCorrection {
    NewCorrection {
        tenant: scene.tenant(),
        meter: "tasks_created".to_owned(),
        quantity,
        occurred_at: Some(scene.window),
        corrects: None,
        reason: "imported twice".to_owned(),
        reference: None,
    }
}

/// A correction is a new signed fact, and takes two people.
///
/// Shown to fail: let whoever asked decide.
#[tokio::test]
async fn a_correction_takes_two_people() {
    let scene = Scene::new().await;
    let cp = &scene.world.hands.cp;
    let Recorded::New(wrong) = scene.say(&scene.fact("k", 10, scene.window)).await.unwrap() else { panic!() };
    scene.at(scene.window + Duration::seconds(400));
    scene.seal().await;
    let (ada, bob) = (operator(&scene, "ada").await, operator(&scene, "bob").await);
    let new = NewCorrection { corrects: Some(wrong), ..correction(&scene, -4) };
    let asked = correction_ask(cp, &ada, &new).await.unwrap();
    assert_eq!(asked.state, CorrectionState::Asked);
    assert_eq!(scene.count(EVENTS).await, 1, "nothing counts before another agrees");
    let own = correction_decide(cp, &ada, asked.id, true).await.unwrap_err();
    assert_eq!(own.code().name, "forbidden");
    let decided = correction_decide(cp, &bob, asked.id, true).await.unwrap();
    assert_eq!(
        (decided.state, decided.decided_by.as_deref()),
        (CorrectionState::Approved, Some(bob.actor.as_str()))
    );
    let again = correction_decide(cp, &bob, asked.id, false).await.unwrap_err();
    assert_eq!(again.code().name, "state_conflict");

    scene.seal().await;
    let said: Vec<_> = scene.batches().await.iter().map(|b| (b.seq, b.quantity)).collect();
    assert_eq!(said, [(0, 10), (1, -4)]);
    let mut conn = scene.world.db().acquire().await.unwrap();
    let batch = &scene.batches().await[1];
    let fact = &facts_of_batch(&mut conn, batch.id, None, 10).await.unwrap()[0];
    assert_eq!((fact.corrects, fact.source.as_str()), (Some(wrong), "correction"));
    assert_eq!(
        (fact.actor.as_deref(), fact.approved_by.as_deref()),
        (Some(ada.actor.as_str()), Some(bob.actor.as_str()))
    );
    let untouched = books::fact_by_id(&mut conn, wrong).await.unwrap().unwrap();
    assert_eq!((untouched.quantity, untouched.batch.is_some()), (10, true));

    let refused = correction_ask(cp, &ada, &correction(&scene, 1)).await.unwrap();
    correction_decide(cp, &bob, refused.id, false).await.unwrap();
    assert_eq!(scene.count(EVENTS).await, 2);
    assert_eq!(correction_list(&mut conn, false, 10).await.unwrap().len(), 0);
    assert_eq!(correction_list(&mut conn, true, 10).await.unwrap().len(), 2);
    let lines = scene.count("SELECT count(*) FROM audit WHERE action LIKE 'usage.correction.%'").await;
    assert_eq!(lines, 4);
}

/// Asked again under its reference, it is the correction of before; another moment is another one. Guards the moment in `same`.
#[tokio::test]
async fn under_one_reference_another_moment_is_a_conflict() {
    let scene = Scene::new().await;
    let (cp, ada) = (&scene.world.hands.cp, operator(&scene, "ada").await);
    let of =
        |at| NewCorrection { occurred_at: at, reference: Some("4711".to_owned()), ..correction(&scene, -12) };
    let first = correction_ask(cp, &ada, &of(Some(scene.window))).await.unwrap();
    for same in [Some(scene.window), None] {
        assert_eq!(correction_ask(cp, &ada, &of(same)).await.unwrap().id, first.id);
    }
    let other = correction_ask(cp, &ada, &of(Some(scene.window - Duration::days(2)))).await.unwrap_err();
    assert_eq!(other.code().name, "idempotency_conflict");
}

#[tokio::test]
async fn a_correction_that_makes_no_sense_is_refused() {
    let scene = Scene::new().await;
    let good = correction(&scene, 1);
    let theirs = scene.world.tenant_with("globex", "team").await;
    let Recorded::New(of_acme) = scene.say(&scene.fact("k", 10, scene.window)).await.unwrap() else {
        panic!()
    };
    for (bad, field) in [
        (NewCorrection { quantity: 0, ..good.clone() }, "quantity"),
        (NewCorrection { quantity: i64::MIN, ..good.clone() }, "quantity"),
        (NewCorrection { meter: "seats".to_owned(), quantity: -1, ..good.clone() }, "quantity"),
        (NewCorrection { meter: "nothing".to_owned(), ..good.clone() }, "meter"),
        (
            NewCorrection { occurred_at: Some(scene.now() - Duration::days(35)), ..good.clone() },
            "occurred_at",
        ),
        (NewCorrection { occurred_at: Some(scene.now() + Duration::days(1)), ..good.clone() }, "occurred_at"),
        (NewCorrection { reason: " x ".to_owned(), ..good.clone() }, "reason"),
        (NewCorrection { tenant: theirs.tenant.id, corrects: Some(of_acme), ..good.clone() }, "corrects"),
    ] {
        let refused = correction_ask(&scene.world.hands.cp, &by("operator:a"), &bad).await.unwrap_err();
        assert_eq!(refused.code().name, "invalid_fields", "{bad:?}");
        assert_eq!(refused.field_errors()[0].field, field);
    }
    let unknown = NewCorrection { tenant: TenantId::new(), ..good };
    let refused = correction_ask(&scene.world.hands.cp, &by("operator:a"), &unknown).await.unwrap_err();
    assert_eq!(refused.code().name, "tenant_not_found");
    assert_eq!(scene.count("SELECT count(*) FROM usage_correction").await, 0);
}

/// Seats are told when they change, and once a day in any case.
#[tokio::test]
async fn seats_are_sampled() {
    let scene = Scene::new().await;
    let cp = &scene.world.hands.cp;
    let noon =
        (scene.now() + Duration::days(1)).duration_trunc(Duration::days(1)).unwrap() + Duration::hours(12);
    scene.at(noon);
    seat(&scene.world, &scene.acme, person(&scene.world, "ada").await, Role::Owner).await;
    assert_eq!(sampler::sample(cp).await.unwrap(), 1);
    assert_eq!(sampler::sample(cp).await.unwrap(), 0);
    scene.at(noon + Duration::hours(1));
    assert_eq!(sampler::sample(cp).await.unwrap(), 0, "nothing changed");
    seat(&scene.world, &scene.acme, person(&scene.world, "bob").await, Role::Member).await;
    assert_eq!(sampler::sample(cp).await.unwrap(), 1);
    scene.at(noon + Duration::hours(13));
    assert_eq!(sampler::sample(cp).await.unwrap(), 1, "another day");
    let quantities: Vec<i64> =
        sqlx::query_scalar("SELECT quantity FROM usage_event WHERE meter = 'seats' ORDER BY occurred_at")
            .fetch_all(scene.world.db())
            .await
            .unwrap();
    assert_eq!(quantities, [1, 2, 2]);
}
