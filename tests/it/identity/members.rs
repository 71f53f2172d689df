//! Seats: who may change whose, and that an owner stays.

use freehold::identity::members::{By, member_change, member_list, member_remove};
use freehold::kernel::{Role, codes};
use freehold::product::{Current, Product};
use freehold::testkit::{World, tester};

use super::fixture::{person, seat};

/// Shown to fail: without the lock in `owners_locked` both owners see the other and leave.
#[tokio::test]
async fn the_last_owner_stays_also_in_a_race() {
    let world = World::new(Current::migrations()).await;
    let acme = world.tenant("acme").await;
    let now = world.hands.cp.clock.now();
    for round in 0..20 {
        let owners = [person(&world, &format!("a{round}")).await, person(&world, &format!("b{round}")).await];
        for owner in owners {
            seat(&world, &acme, owner, Role::Owner).await;
        }
        let leave = async |account| {
            let by = By { account: Some(account), role: Role::Owner };
            let mut tx = world.db().begin().await.unwrap();
            let left = member_remove(&mut tx, &tester(), by, acme.tenant.id, account, now).await;
            tx.commit().await.unwrap();
            left
        };
        let (one, other) = tokio::join!(leave(owners[0]), leave(owners[1]));
        let left = [&one, &other].iter().filter(|left| left.is_ok()).count();
        assert_eq!(left, 1, "{one:?} {other:?}");
        // Clear the table for the next round: the one who stayed gives way to nobody, so by hand.
        sqlx::query("DELETE FROM membership").execute(world.db()).await.unwrap();
    }
}

#[tokio::test]
async fn nobody_touches_a_seat_above_their_own() {
    let world = World::new(Current::migrations()).await;
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let now = world.hands.cp.clock.now();
    let mut accounts = Vec::new();
    for role in Role::ALL {
        let account = person(&world, role.as_str()).await;
        seat(&world, &acme, account, role).await;
        accounts.push((role, account));
    }
    let stranger = person(&world, "stranger").await;
    seat(&world, &globex, stranger, Role::Member).await;
    for (by_role, by) in &accounts {
        let by = By { account: Some(*by), role: *by_role };
        for (role, account) in &accounts {
            let mut tx = world.db().begin().await.unwrap();
            let removed = member_remove(&mut tx, &tester(), by, acme.tenant.id, *account, now).await;
            let allowed = match (by.account == Some(*account), *role) {
                (_, Role::Owner) => false,
                (true, _) => true,
                (false, role) => *by_role >= Role::Admin && role <= *by_role,
            };
            assert_eq!(removed.is_ok(), allowed, "{by_role} removes {role}: {removed:?}");
            tx.rollback().await.unwrap();
            for to in Role::ALL {
                let mut tx = world.db().begin().await.unwrap();
                let changed = member_change(&mut tx, &tester(), by, acme.tenant.id, *account, to, now).await;
                if *role > *by_role || to > *by_role {
                    assert!(
                        changed.is_err_and(|error| error.is(&codes::FORBIDDEN)),
                        "{by_role}: {role} to {to}"
                    );
                }
                tx.rollback().await.unwrap();
            }
        }
        let mut tx = world.db().begin().await.unwrap();
        let foreign = member_remove(&mut tx, &tester(), by, acme.tenant.id, stranger, now).await;
        assert!(foreign.is_err_and(|error| error.is(&codes::NOT_FOUND)));
    }
    let mut conn = world.db().acquire().await.unwrap();
    let listed = member_list(&mut conn, acme.tenant.id, &Default::default()).await.unwrap();
    assert_eq!(listed.items.len(), accounts.len());
}
