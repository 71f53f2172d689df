//! Plans and what they limit.

mod door;
mod monthly;
mod notices;
mod plans;
mod stored;

use freehold::billing::quotas::Month;
use freehold::billing::quotas::levels::{Counted, requests_seen};
use freehold::control_plane::plan_change::tenant_plan_set;
use freehold::control_plane::plans::{Entitlements, Plan, SHIPPED, apply, parse};
use freehold::kernel::ids::TenantId;
use freehold::testkit::{World, tester};

/// The shipped plans, each with its limits changed.
async fn sell(world: &World, change: impl Fn(&mut Plan)) {
    let mut all = parse(SHIPPED).unwrap();
    all.iter_mut().for_each(change);
    apply(&world.hands.cp, &tester(), &all, false).await.unwrap();
}

/// The limits of the largest plan, with so many requests a month.
fn limits(requests_per_month: u64) -> Entitlements {
    let plan = parse(SHIPPED).unwrap().pop().unwrap();
    Entitlements { requests_per_month: Some(requests_per_month), ..plan.entitlements }
}

/// So many requests were counted this month.
async fn counted(world: &World, tenant: TenantId, used: i64) {
    let now = world.hands.cp.clock.now();
    let counted = Counted { tenant, month: Month::of(now), used };
    requests_seen(world.db(), &[counted], now).await.unwrap();
}

async fn move_to(world: &World, tenant: TenantId, plan: &str) {
    let mut tx = world.db().begin().await.unwrap();
    tenant_plan_set(&mut tx, &tester(), tenant, plan, world.hands.cp.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
}
