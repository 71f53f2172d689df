//! Invitations: who may sit down, and that nobody else does (trust B10).

use std::time::Duration;

use chrono::TimeDelta;
use freehold::identity::Identity;
use freehold::identity::accounts::{Vouched, account_enter};
use freehold::identity::invitations::{
    Invitation, LINK, NewInvitation, invitation_accept, invitation_look, invitation_resend,
    invitation_revoke, invite,
};
use freehold::identity::letters::{Letter, Mail, write};
use freehold::identity::members::{By, member_list};
use freehold::identity::settings::{MailSettings, MailTransport, Settings};
use freehold::identity::sign_in::Providers;
use freehold::kernel::ids::{AccountId, InvitationId, TenantId};
use freehold::kernel::{Error, Result, Role, codes};
use freehold::product::{Current, Product};
use freehold::testkit::{AppOptions, TestApp, World, eventually, tester};
use reqwest::Method;
use serde_json::json;

use super::fixture::{enter, person, seat, sign_in, vouched};

/// What the services work with; nothing is sent.
pub(super) fn identity(world: &World, mail: bool) -> Identity {
    let transport = MailTransport::Folder { path: world.folder.path().join("mail") };
    let mail = mail.then(|| MailSettings { from: "a@example.com".to_owned(), transport });
    let settings = Settings { mail, ..Settings::default() };
    Identity::new(&world.hands.cp, &world.hands.master, Providers::default(), settings)
}

/// A workspace with an owner.
struct Office {
    world: World,
    identity: Identity,
    tenant: TenantId,
    owner: By,
}

async fn office() -> Office {
    let world = World::new(Current::migrations()).await;
    let acme = world.tenant("acme").await;
    let owner = person(&world, "owner").await;
    seat(&world, &acme, owner, Role::Owner).await;
    let identity = identity(&world, true);
    let owner = By { account: Some(owner), role: Role::Owner };
    Office { world, identity, tenant: acme.tenant.id, owner }
}

impl Office {
    async fn ask(&self, by: By, email: &str, role: Role) -> Result<Invitation> {
        let new = NewInvitation { email: email.to_owned(), role };
        invite(&self.identity, &tester(), by, self.tenant, &new).await
    }

    /// The secret of the link, as the mail has it.
    async fn secret(&self, id: InvitationId) -> String {
        let mail = self.mail(id).await.expect("there is a letter to write");
        let (_, secret) = mail.text.split_once("?secret=").expect("a link");
        secret.split_whitespace().next().expect("a secret").to_owned()
    }

    async fn mail(&self, id: InvitationId) -> Option<Mail> {
        write(&self.identity, self.tenant, &Letter::Invitation { invitation: id }).await.unwrap()
    }

    async fn accept(&self, account: AccountId, id: InvitationId, secret: &str) -> Result<()> {
        invitation_accept(&self.identity, &tester(), account, id, secret).await.map(drop)
    }

    async fn seats(&self) -> usize {
        let mut conn = self.world.db().acquire().await.unwrap();
        member_list(&mut conn, self.tenant, &Default::default()).await.unwrap().items.len()
    }

    /// Somebody whom another provider vouches for.
    async fn stranger(&self, subject: &str, email: Option<&str>, verified: bool) -> AccountId {
        let vouched = Vouched {
            issuer: "https://other.example.com".to_owned(),
            email: email.map(str::to_owned),
            email_verified: verified,
            ..vouched(subject)
        };
        let mut tx = self.world.db().begin().await.unwrap();
        let now = self.world.hands.cp.clock.now();
        let (account, _) = account_enter(&mut tx, &vouched, now).await.unwrap();
        tx.commit().await.unwrap();
        account
    }

    async fn plan_seats(&self, seats: i64) {
        sqlx::query(
            "UPDATE plan SET entitlements = jsonb_set(entitlements, '{seats}', to_jsonb($1::bigint))",
        )
        .bind(seats)
        .execute(self.world.db())
        .await
        .unwrap();
    }
}

fn code<T>(outcome: Result<T>) -> &'static str {
    outcome.err().map_or("ok", |error: Error| error.code().name)
}

/// B10. Shown to fail, each with its line taken out: the comparison of addresses; `person.email_verified`;
/// `open.expires_at > now`; `Some(_) => return Err(gone())`; `link_is_good`; the state of the tenant.
#[tokio::test]
async fn a_seat_is_for_the_invited_person_once_and_in_time() {
    let office = office().await;
    let invited = office.ask(office.owner, "Grace@Example.com", Role::Member).await.unwrap();
    let secret = office.secret(invited.id).await;
    let grace = person(&office.world, "grace").await;

    // Somebody else with the link; the right address that nobody vouches for; no address at all.
    for (who, account) in [
        ("another address", person(&office.world, "mallory").await),
        ("unverified", office.stranger("g1", Some("grace@example.com"), false).await),
        ("no address", office.stranger("g2", None, false).await),
        ("a longer address", office.stranger("g3", Some("grace@example.com.evil.io"), true).await),
    ] {
        assert_eq!(code(office.accept(account, invited.id, &secret).await), "forbidden", "{who}");
    }
    // Guesses, and the secrets of other things.
    let other = office.ask(office.owner, "grace2@example.com", Role::Owner).await.unwrap();
    let other_secret = office.secret(other.id).await;
    let master = &office.identity.master;
    let id = invited.id.to_string();
    for guess in [
        String::new(),
        "A".repeat(43),
        secret[..42].to_owned(),
        format!("{secret}A"),
        secret.to_lowercase(),
        other_secret.clone(),
        master.link_secret(LINK, &id, 2),
        master.link_secret("password", &id, 1),
        master.link_secret(LINK, &InvitationId::new().to_string(), 1),
    ] {
        assert_eq!(code(office.accept(grace, invited.id, &guess).await), "not_found", "{guess}");
        assert!(invitation_look(&office.identity, invited.id, &guess).await.is_err(), "{guess}");
    }
    // A member's invitation is not an owner's: the link's id and secret go together.
    assert_eq!(code(office.accept(grace, other.id, &secret).await), "not_found");
    assert_eq!(code(office.accept(grace, InvitationId::new(), &secret).await), "not_found");
    assert_eq!(office.seats().await, 1, "0 joins");

    // Too late by a moment; then sent again: the new link is good, the old one is dead.
    let clock = &office.world.hands.cp.clock;
    let week = TimeDelta::days(7);
    clock.advance(week);
    assert_eq!(code(office.accept(grace, invited.id, &secret).await), "not_found", "expired");
    assert!(office.mail(invited.id).await.is_none(), "no letter for what has run out");
    invitation_resend(&office.identity, &tester(), office.owner, office.tenant, invited.id).await.unwrap();
    let fresh = office.secret(invited.id).await;
    assert_ne!(secret, fresh);
    assert_eq!(code(office.accept(grace, invited.id, &secret).await), "not_found", "an old link");

    // While the workspace is suspended nobody joins.
    let suspend = async |state: &str| {
        sqlx::query("UPDATE tenant SET state = $1").bind(state).execute(office.world.db()).await.unwrap();
    };
    suspend("suspended").await;
    assert_eq!(code(office.accept(grace, invited.id, &fresh).await), "not_found", "suspended");
    suspend("active").await;

    assert_eq!(office.seats().await, 1, "0 joins");
    office.accept(grace, invited.id, &fresh).await.unwrap();
    assert_eq!(office.seats().await, 2);
    // Once: the same person again changes nothing, another account with the same verified address is refused.
    office.accept(grace, invited.id, &fresh).await.unwrap();
    let twin = office.stranger("g4", Some("GRACE@example.com"), true).await;
    assert_eq!(code(office.accept(twin, invited.id, &fresh).await), "not_found", "used");
    assert!(office.mail(invited.id).await.is_none(), "no letter for what is accepted");
    let resent =
        invitation_resend(&office.identity, &tester(), office.owner, office.tenant, invited.id).await;
    assert_eq!(code(resent), "state_conflict");

    // Taken back.
    let last = office.ask(office.owner, "twin@example.com", Role::Member).await.unwrap();
    let link = office.secret(last.id).await;
    invitation_revoke(&office.identity, &tester(), office.tenant, last.id).await.unwrap();
    let twin = office.stranger("g5", Some("twin@example.com"), true).await;
    assert_eq!(code(office.accept(twin, last.id, &link).await), "not_found", "revoked");
    assert_eq!(office.seats().await, 2);
}

/// B10, roles and tenants. Shown to fail: `new.role > by.role` taken out; `tenant = $1` taken out of `invitation_locked`.
#[tokio::test]
async fn nobody_invites_above_themselves_or_reaches_into_another_workspace() {
    let office = office().await;
    let globex = office.world.tenant("globex").await;
    for by_role in Role::ALL {
        let by = By { account: office.owner.account, role: by_role };
        for role in Role::ALL {
            let asked = office.ask(by, &format!("{by_role}-{role}@example.com"), role).await;
            let allowed = by_role >= Role::Admin && role <= by_role;
            assert_eq!(code(asked), if allowed { "ok" } else { "forbidden" }, "{by_role} invites {role}");
        }
        let key = By { account: None, role: by_role };
        assert_eq!(code(office.ask(key, "k@example.com", Role::Viewer).await), "forbidden", "a key");
    }
    // Who has a seat keeps the role of the seat, whatever a second invitation says.
    let invited = office.ask(office.owner, "vera@example.com", Role::Owner).await.unwrap();
    let secret = office.secret(invited.id).await;
    let vera = person(&office.world, "vera").await;
    seat(&office.world, &office.world.show("acme").await, vera, Role::Viewer).await;
    office.accept(vera, invited.id, &secret).await.unwrap();
    let mut conn = office.world.db().acquire().await.unwrap();
    let members = member_list(&mut conn, office.tenant, &Default::default()).await.unwrap().items;
    assert!(members.iter().any(|member| member.account == vera && member.role == Role::Viewer));
    assert_eq!(code(office.ask(office.owner, "VERA@example.com", Role::Admin).await), "conflict", "seated");
    let asked = office.ask(office.owner, "admin-admin@example.com", Role::Viewer).await;
    assert_eq!(code(asked), "conflict", "one open invitation for an address");

    let foreign = globex.tenant.id;
    let resent = invitation_resend(&office.identity, &tester(), office.owner, foreign, invited.id).await;
    assert_eq!(code(resent), "not_found");
    let revoked = invitation_revoke(&office.identity, &tester(), foreign, invited.id).await;
    assert_eq!(code(revoked), "not_found");
    assert!(
        write(&office.identity, foreign, &Letter::Invitation { invitation: invited.id })
            .await
            .unwrap()
            .is_none(),
        "no letter in another workspace's name"
    );
}

/// B10, seats. Shown to fail: the tenant's lock in `seats_locked` taken out (seen in the first of the races).
#[tokio::test]
async fn no_more_people_sit_than_the_plan_has_seats_also_in_a_race() {
    let office = office().await;
    office.plan_seats(4).await;
    let ask =
        async |name: String| office.ask(office.owner, &format!("{name}@example.com"), Role::Member).await;
    let asked = futures_util::future::join_all((0..8).map(|n| ask(format!("p{n}")))).await;
    let good: Vec<Invitation> = asked
        .into_iter()
        .filter_map(|asked| {
            asked.inspect_err(|error| assert!(error.is(&codes::PAYMENT_REQUIRED), "{error:?}")).ok()
        })
        .collect();
    assert_eq!(good.len(), 3, "one seat is taken, three are free");

    // The plan shrank meanwhile: one seat is left for three who are invited.
    office.plan_seats(2).await;
    let mut coming = Vec::new();
    for invited in &good {
        let name = invited.email.split('@').next().unwrap();
        coming.push((person(&office.world, name).await, invited.id, office.secret(invited.id).await));
    }
    let accepted = futures_util::future::join_all(
        coming.iter().map(|(account, id, secret)| office.accept(*account, *id, secret)),
    )
    .await;
    let joined = accepted.iter().filter(|one| one.is_ok()).count();
    assert_eq!((joined, office.seats().await), (1, 2), "{accepted:?}");
    for refused in accepted.into_iter().filter(Result::is_err) {
        assert_eq!(code(refused), "payment_required");
    }

    // One invitation at once from two browsers of the same person: one seat.
    office.plan_seats(10).await;
    let twice = office.ask(office.owner, "zoe@example.com", Role::Member).await.unwrap();
    let (zoe, secret) = (person(&office.world, "zoe").await, office.secret(twice.id).await);
    let (one, other) =
        tokio::join!(office.accept(zoe, twice.id, &secret), office.accept(zoe, twice.id, &secret));
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    assert_eq!(office.seats().await, 3);
}

/// Nobody's mailbox is filled through us, and no job is made that nobody can do. Shown to fail: `letter_post` without its
/// two `take`s; `mail_is_set_up` taken out.
#[tokio::test]
async fn letters_are_few_and_only_where_mail_leaves() {
    let office = office().await;
    let invited = office.ask(office.owner, "bob@example.com", Role::Member).await.unwrap();
    let again = async || {
        invitation_resend(&office.identity, &tester(), office.owner, office.tenant, invited.id).await
    };
    for _ in 0..4 {
        again().await.unwrap();
    }
    assert_eq!(code(again().await), "rate_limited", "five letters to an address, then one an hour");
    invitation_revoke(&office.identity, &tester(), office.tenant, invited.id).await.unwrap();
    assert_eq!(code(office.ask(office.owner, "BOB@example.com", Role::Viewer).await), "rate_limited");
    office.world.hands.cp.clock.advance(TimeDelta::hours(1));
    office.ask(office.owner, "bob@example.com", Role::Viewer).await.unwrap();

    let mute = Office { identity: identity(&office.world, false), ..office };
    let refused = mute.ask(mute.owner, "carol@example.com", Role::Member).await.unwrap_err();
    assert!(refused.is(&codes::STATE_CONFLICT), "{refused:?}");
    let letters: i64 = sqlx::query_scalar("SELECT count(*) FROM job WHERE kind = 'letter'")
        .fetch_one(mute.world.db())
        .await
        .unwrap();
    assert_eq!(letters, 6);
}

/// From the form to the mail: the worker carries it, its link opens a seat, and a name begins no header of its own.
#[tokio::test]
async fn an_invitation_arrives_and_its_link_is_good() {
    let app = TestApp::start::<Current>(AppOptions::of::<Current>()).await;
    let world = &app.world;
    let acme = world.tenant("acme").await;
    let ada = person(world, "ada").await;
    sqlx::query("UPDATE account SET name = E'Ada\r\nBcc: all@example.com'")
        .execute(world.db())
        .await
        .unwrap();
    seat(world, &acme, ada, Role::Admin).await;
    let browser = enter(world, sign_in(world, ada).await.id, &acme).await;
    let new = json!({ "email": "grace@example.com", "role": "member" });
    let (status, body) = app.send(browser.ask(&app, Method::POST, "/api/v1/invitations").json(&new)).await;
    assert_eq!(status, 201, "{body}");
    let mail =
        eventually(Duration::from_secs(20), "the mail is sent", async || app.mails().pop().ok_or("none yet"))
            .await;
    let (headers, _) = mail.split_once("\r\n\r\n").expect("headers and a body");
    assert!(headers.contains("To: grace@example.com"), "{headers}");
    assert!(!headers.contains("\nBcc"), "{headers}");
    // Quoted-printable: soft line breaks, and `=` as `=3D`.
    let text = mail.replace("=\r\n", "").replace("=3D", "=");
    let (_, link) = text.split_once("http://localhost/invitations/").expect("a link");
    let (id, secret) = link.split_once("?secret=").expect("a secret");
    let secret: String =
        secret.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
    assert_eq!(id, body["id"].as_str().unwrap());
    let identity = identity(world, true);
    let grace = person(world, "grace").await;
    let id = id.parse().unwrap();
    assert_eq!(invitation_look(&identity, id, &secret).await.unwrap().email, "grace@example.com");
    invitation_accept(&identity, &tester(), grace, id, &secret).await.unwrap();
    let colleague = enter(world, sign_in(world, grace).await.id, &acme).await;
    assert_eq!(app.send(colleague.ask(&app, Method::GET, "/api/v1/projects")).await.0, 200);
}
