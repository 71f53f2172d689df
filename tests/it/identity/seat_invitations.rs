//! Invitations go with the seat of whoever sent them: they are no way back.

use freehold::identity::Identity;
use freehold::identity::invitations::{
    Invitation, LINK, NewInvitation, invitation_accept, invitation_resend, invite,
};
use freehold::identity::members::{By, member_change, member_remove, ownership_transfer};
use freehold::kernel::ids::{AccountId, TenantId};
use freehold::kernel::{Result, Role, codes};
use freehold::product::{Current, Product};
use freehold::testkit::{World, tester};

use super::fixture::{person, seat};
use super::invitations::identity;

/// A workspace with two owners.
struct Office {
    world: World,
    identity: Identity,
    tenant: TenantId,
    ada: AccountId,
    bob: AccountId,
}

async fn office() -> Office {
    let world = World::new(Current::migrations()).await;
    let acme = world.tenant("acme").await;
    let (ada, bob) = (person(&world, "ada").await, person(&world, "bob").await);
    for owner in [ada, bob] {
        seat(&world, &acme, owner, Role::Owner).await;
    }
    let identity = identity(&world, true);
    Office { world, identity, tenant: acme.tenant.id, ada, bob }
}

fn by(account: AccountId, role: Role) -> By {
    By { account: Some(account), role }
}

impl Office {
    async fn ask(&self, who: AccountId, name: &str, role: Role) -> Result<Invitation> {
        let new = NewInvitation { email: format!("{name}@example.com"), role };
        invite(&self.identity, &tester(), by(who, Role::Owner), self.tenant, &new).await
    }

    /// Somebody of this name follows the link that was mailed to them.
    async fn accept(&self, name: &str, invitation: &Invitation) -> Result<()> {
        let account = person(&self.world, name).await;
        let version: i32 = sqlx::query_scalar("SELECT version FROM invitation WHERE id = $1")
            .bind(invitation.id)
            .fetch_one(self.world.db())
            .await
            .unwrap();
        let secret = self.identity.master.link_secret(LINK, &invitation.id.to_string(), version);
        invitation_accept(&self.identity, &tester(), account, invitation.id, &secret).await.map(drop)
    }

    async fn change(&self, account: AccountId, role: Role) {
        let (now, mut tx) = (self.world.hands.cp.clock.now(), self.world.db().begin().await.unwrap());
        let ada = by(self.ada, Role::Owner);
        member_change(&mut tx, &tester(), ada, self.tenant, account, role, now).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn remove(&self, account: AccountId) {
        let (now, mut tx) = (self.world.hands.cp.clock.now(), self.world.db().begin().await.unwrap());
        let ada = by(self.ada, Role::Owner);
        member_remove(&mut tx, &tester(), ada, self.tenant, account, now).await.unwrap();
        tx.commit().await.unwrap();
    }
}

fn gone(outcome: Result<()>) -> bool {
    outcome.is_err_and(|error| error.is(&codes::NOT_FOUND))
}

/// Shown to fail: `invitations_go_with_seat` taken out of `goes_with_seat`; its condition on addresses; its condition on roles;
/// the look at the inviter's seat taken out of `invite`.
#[tokio::test]
async fn an_invitation_does_not_outlive_the_seat_of_who_sent_it() {
    let office = office().await;
    // Demoted: what leads above the role that stays goes, the rest may be accepted.
    let high = office.ask(office.bob, "high", Role::Owner).await.unwrap();
    let low = office.ask(office.bob, "low", Role::Member).await.unwrap();
    let others = office.ask(office.ada, "others", Role::Owner).await.unwrap();
    office.change(office.bob, Role::Admin).await;
    assert!(gone(office.accept("high", &high).await), "an owner by the hand of one who is none");
    office.accept("low", &low).await.unwrap();
    office.accept("others", &others).await.unwrap();
    let refused = office.ask(office.bob, "late", Role::Owner).await.unwrap_err();
    assert!(
        refused.is(&codes::FORBIDDEN),
        "the role that the request began with is no longer his: {refused:?}"
    );

    // Removed: all of them, and those that lead himself back in.
    let last = office.ask(office.bob, "last", Role::Viewer).await.unwrap();
    let second = office.ask(office.ada, "second", Role::Viewer).await.unwrap();
    sqlx::query("UPDATE account_identity SET email = 'second@example.com' WHERE account = $1")
        .bind(office.bob)
        .execute(office.world.db())
        .await
        .unwrap();
    office.remove(office.bob).await;
    assert!(gone(office.accept("last", &last).await));
    assert!(gone(office.accept("second", &second).await), "to another address of his");
    assert!(office.ask(office.bob, "again", Role::Viewer).await.is_err(), "nobody invites without a seat");

    // Handing over leaves an admin, who may have invited admins.
    let owner = office.ask(office.ada, "owner", Role::Owner).await.unwrap();
    let admin = office.ask(office.ada, "admin", Role::Admin).await.unwrap();
    let low = person(&office.world, "low").await;
    let (now, mut tx) = (office.world.hands.cp.clock.now(), office.world.db().begin().await.unwrap());
    ownership_transfer(&mut tx, &tester(), office.tenant, office.ada, low, now).await.unwrap();
    tx.commit().await.unwrap();
    assert!(gone(office.accept("owner", &owner).await));
    office.accept("admin", &admin).await.unwrap();

    let lines: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM audit
          WHERE action = 'invitation.revoke' AND detail ->> 'with' = 'seat' AND tenant = $1",
    )
    .bind(office.tenant)
    .fetch_one(office.world.db())
    .await
    .unwrap();
    assert_eq!(lines, 4, "one line for each");
}

/// Whoever sends an invitation again gives what it gives. Shown to fail: the comparison of roles taken out of
/// `invitation_resend`; its question whether they invite at all.
#[tokio::test]
async fn nobody_sends_an_invitation_above_themselves_again() {
    let office = office().await;
    let invited = office.ask(office.bob, "high", Role::Owner).await.unwrap();
    let viewer = office.ask(office.bob, "viewer", Role::Viewer).await.unwrap();
    office.world.hands.cp.clock.advance(chrono::TimeDelta::days(8));
    let again = async |by: By, invited: &Invitation| {
        invitation_resend(&office.identity, &tester(), by, office.tenant, invited.id).await.map(drop)
    };
    let resend = async |by: By| again(by, &invited).await;
    for low in
        [by(office.bob, Role::Admin), By { account: None, role: Role::Admin }, by(office.bob, Role::Manager)]
    {
        assert!(resend(low).await.is_err_and(|error| error.is(&codes::FORBIDDEN)), "{low:?}");
    }
    let manager = again(by(office.bob, Role::Manager), &viewer).await;
    assert!(manager.is_err_and(|error| error.is(&codes::FORBIDDEN)), "who invites nobody");
    assert!(gone(office.accept("high", &invited).await), "it ran out and stays so");
    resend(by(office.bob, Role::Owner)).await.unwrap();
    office.accept("high", &invited).await.unwrap();
}

/// An invitation that is accepted while its sender is being removed: either it was accepted before, or it is gone. Shown
/// to fail: the second look taken out of `invitation_accept`; `invitations_go_with_seat` out of `goes_with_seat`.
#[tokio::test]
async fn an_invitation_is_not_accepted_behind_a_removal() {
    let office = office().await;
    let invited = office.ask(office.bob, "high", Role::Owner).await.unwrap();
    let (now, mut removal) = (office.world.hands.cp.clock.now(), office.world.db().begin().await.unwrap());
    let ada = by(office.ada, Role::Owner);
    member_remove(&mut removal, &tester(), ada, office.tenant, office.bob, now).await.unwrap();
    // It has looked at the invitation, and waits for the workspace.
    let accepting = office.accept("high", &invited);
    let removing = async {
        let waits = async || {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            .fetch_one(office.world.db())
            .await
            .unwrap();
            if waiting > 0 { Ok(()) } else { Err("nobody waits") }
        };
        freehold::testkit::eventually(std::time::Duration::from_secs(10), "it waits", waits).await;
        removal.commit().await.unwrap();
    };
    let (accepted, ()) = tokio::join!(accepting, removing);
    assert!(gone(accepted), "accepted by the hand of one who was being removed");
}
