//! Plans as they are applied, and tenants that change theirs.

use freehold::control_plane::access::tenant_delete;
use freehold::control_plane::plan_change::tenant_plan_set;
use freehold::control_plane::plans::{self, Plan, PlanMeter, apply, plan_list};
use freehold::control_plane::tenants::TenantRef;
use freehold::kernel::codes;
use freehold::testkit::{World, WorldOptions, tester};

use crate::provisioning::TABLES;

async fn world() -> World {
    World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: &TABLES }).await
}

async fn on_sale(world: &World) -> Vec<Plan> {
    plan_list(&mut world.db().acquire().await.unwrap()).await.unwrap()
}

/// Shown to fail: `dry_run` in the condition; the meters' check; the currency's.
#[tokio::test]
async fn plans_are_applied_as_a_whole_or_not_at_all() {
    let world = world().await;
    let cp = &world.hands.cp;
    let shipped = plans::parse(plans::SHIPPED).unwrap();
    assert_eq!(on_sale(&world).await, shipped, "prices and meters come back as they went");
    let again = apply(cp, &tester(), &shipped, false).await.unwrap();
    assert!(again.is_empty() && again.differences.is_empty(), "{again:?}");

    let mut changed = shipped.clone();
    changed[1].price.as_mut().unwrap().monthly_minor = 5_900;
    changed.pop();
    let said = apply(cp, &tester(), &changed, true).await.unwrap();
    assert_eq!(
        (said.changed.as_slice(), said.retired.as_slice()),
        (&["team".to_owned()][..], &["enterprise".to_owned()][..])
    );
    let lines: Vec<_> =
        said.differences.iter().map(|d| (d.what.as_str(), d.from.as_deref(), d.to.as_deref())).collect();
    let (from, to) = ("49.00 EUR a month after 14 days", "59.00 EUR a month after 14 days");
    assert_eq!(lines, [("price", Some(from), Some(to))]);
    assert_eq!(on_sale(&world).await, shipped, "a dry run changes nothing");

    // One mistake, and nothing of the rest is applied.
    let mut unknown = changed.clone();
    unknown[2].meters.push(PlanMeter { meter: "coffees".into(), included: 0, unit_price_minor: 1 });
    let error = apply(cp, &tester(), &unknown, false).await.unwrap_err();
    assert!(error.is(&codes::BAD_REQUEST) && error.to_string().contains("coffees"), "{error:?}");
    let mut dollars = changed.clone();
    for plan in &mut dollars {
        if let Some(price) = &mut plan.price {
            price.currency = "usd".into();
        }
    }
    let error = apply(cp, &tester(), &dollars, false).await.unwrap_err();
    assert!(error.to_string().contains("plan team is sold in eur"), "{error:?}");
    assert_eq!(on_sale(&world).await, shipped);

    let done = apply(cp, &tester(), &changed, false).await.unwrap();
    assert_eq!(done, said, "what was said is what is done");
    assert_eq!(on_sale(&world).await, changed);
    // Sold again.
    let back = apply(cp, &tester(), &shipped, false).await.unwrap();
    assert!(back.differences.iter().any(|d| d.plan == "enterprise" && d.what == "sold"), "{back:?}");
}

/// Shown to fail: the pools' comparison; the state's.
#[tokio::test]
async fn a_tenant_changes_its_plan_within_its_pool() {
    let world = world().await;
    let acme = world.tenant_with("acme", "free").await.tenant.id;
    let now = world.hands.cp.clock.now();
    let set = async |plan: &str| {
        let mut tx = world.db().begin().await.unwrap();
        let set = tenant_plan_set(&mut tx, &tester(), acme, plan, now).await;
        if set.is_ok() {
            tx.commit().await.unwrap();
        }
        set.map(|plan| plan.id).map_err(|error| error.code().name)
    };
    assert_eq!(set("team").await.as_deref(), Ok("team"));
    assert_eq!(world.show("acme").await.tenant.plan, "team");
    assert_eq!(set("team").await.as_deref(), Ok("team"), "the same again changes nothing");
    assert_eq!(set("gold").await.as_deref(), Err(&"invalid_fields"));
    let lines: Vec<serde_json::Value> =
        sqlx::query_scalar("SELECT detail FROM audit WHERE action = 'tenant.plan' AND tenant = $1")
            .bind(acme)
            .fetch_all(world.db())
            .await
            .unwrap();
    assert_eq!(lines, [serde_json::json!({ "from": "free", "to": "team" })]);

    let mut plans = plans::parse(plans::SHIPPED).unwrap();
    plans[3].shard_pool = "elsewhere".into();
    apply(&world.hands.cp, &tester(), &plans, false).await.unwrap();
    assert_eq!(set("enterprise").await.as_deref(), Err(&"state_conflict"));
    // One that is no longer sold is kept, and nobody else gets it.
    plans.remove(1);
    apply(&world.hands.cp, &tester(), &plans, false).await.unwrap();
    assert_eq!(set("team").await.as_deref(), Ok("team"));
    assert_eq!(set("business").await.as_deref(), Ok("business"));
    assert_eq!(set("team").await.as_deref(), Err(&"invalid_fields"));
    tenant_delete(&world.hands.cp, &tester(), &TenantRef::Id(acme), "over").await.unwrap();
    assert_eq!(set("free").await.as_deref(), Err(&"state_conflict"));
}
