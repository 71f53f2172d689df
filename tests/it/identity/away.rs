//! Tokens while the control database is away: what is known goes on for as long as the token is good, and no new one is
//! given.

use std::time::Duration;

use chrono::TimeDelta;
use freehold::data_plane::limits::Limiter;
use freehold::identity::sessions::session_revoke;
use freehold::kernel::Role;
use freehold::testkit::proxy::{Mode, Proxy};
use freehold::testkit::{Cluster, World, WorldOptions, eventually};
use secrecy::SecretString;
use sqlx::postgres::PgPoolOptions;

use super::fixture::{identity, person, seat, sign_in, terminal};
use crate::edge::Site;
use crate::provisioning::TABLES;

const WHOAMI: &str = "/api/v1/whoami";

/// The policy, in numbers: a session that was revoked elsewhere lives on at a server that is cut off for at most the ten
/// minutes of its access token; a person whom the server does not know is 503, not 401.
///
/// Shown to fail: without the expiry in `Tokens::believed` a token that was seen before goes on. (`Directory::look_up` has
/// a test of its own.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_cut_off_believes_a_token_until_it_expires() {
    let world = World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: &TABLES }).await;
    let acme = world.tenant("acme").await;
    let port = Cluster::shared().await.server(0).port();
    let proxy = Proxy::to_port(port).await;
    let url = SecretString::from(world.control_url.clone());
    let options = freehold::db::control::options(&url, "test").unwrap();
    let db = PgPoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy_with(options.host("127.0.0.1").port(proxy.port()));
    let site = Site::over(world, db, Limiter::new(None, 1), Duration::from_secs(30)).await;
    let world = &site.world;
    let services = identity(world);
    let (ada, eve) = (person(world, "ada").await, person(world, "eve").await);
    seat(world, &acme, ada, Role::Owner).await;
    seat(world, &acme, eve, Role::Owner).await;
    let mut laptop = terminal(&services, ada, sign_in(world, ada).await.id).await;
    let mut stranger = terminal(&services, eve, sign_in(world, eve).await.id).await;
    let token = laptop.token(&services, "acme").await;
    let cold = stranger.token(&services, "acme").await;
    let status = async |token: &str| site.get("acme.localhost", WHOAMI, token).await.status.as_u16();
    assert_eq!(status(&token).await, 200);

    proxy.set(Mode::Refuse);
    eventually(Duration::from_secs(15), "the loss is noticed", async || {
        if site.directory.health().listening { Err("still listening") } else { Ok(()) }
    })
    .await;
    let mut tx = world.db().begin().await.unwrap();
    session_revoke(&mut tx, ada, laptop.session, site.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(status(&token).await, 200, "nobody told this server");
    assert_eq!(status(&cold).await, 503, "a person it does not know");
    site.clock.advance(TimeDelta::minutes(10));
    assert_eq!(status(&token).await, 401, "the end of it");

    site.clock.advance(TimeDelta::minutes(-10));
    assert_eq!(status(&token).await, 200);
    proxy.set(Mode::Pass);
    site.heard().await;
    eventually(Duration::from_secs(5), "back again, it hears of it", async || {
        match (status(&token).await, status(&cold).await) {
            (401, 200) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
}
