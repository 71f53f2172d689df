//! Beginning sign-ins: anyone can, so there is an end to it.

use freehold::kernel::Clock;
use freehold::testkit::{RogueIdp, TestApp};
use reqwest::Method;
use reqwest::redirect::Policy;

use super::fixture::site;

async fn rows(app: &TestApp) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM sign_in").fetch_one(app.world.db()).await.unwrap()
}

/// Shown to fail: `may_begin` taken out of `flow::begin`.
#[tokio::test]
async fn one_network_fills_no_table() {
    let rogue = RogueIdp::start(Clock::System).await;
    let app = site(vec![rogue.settings("rogue")]).await;
    let client = reqwest::Client::builder().redirect(Policy::none()).no_proxy().build().unwrap();
    let begin = async |from: &str| -> u16 {
        let request = client
            .request(Method::GET, app.replicas[0].url("/sign-in/rogue"))
            .header("host", "localhost")
            .header("x-forwarded-for", from);
        request.send().await.unwrap().status().as_u16()
    };
    // Until it is refused; a little more than the burst, because some are given back meanwhile.
    let until_refused = async |address: &dyn Fn(usize) -> String| {
        for at in 0..2_000 {
            match begin(&address(at)).await {
                303 => {}
                429 => return at,
                status => panic!("{status}"),
            }
        }
        panic!("nobody was refused")
    };
    let begun = until_refused(&|_| "203.0.113.7".to_owned()).await;
    assert!(begun >= 120, "an office comes to work: {begun}");
    assert_eq!(usize::try_from(rows(&app).await).unwrap(), begun, "a refused one leaves no row");
    assert_eq!(begin("203.0.113.8").await, 303, "a neighbour is another client");
    // One customer's addresses are one network.
    until_refused(&|at| format!("2001:db8:1:2{:02x}::{at:x}", at % 256)).await;
    assert_eq!(begin("2001:db8:1:300::1").await, 303);

    // What is over goes within hours, not weeks.
    app.world.hands.cp.clock.advance(chrono::TimeDelta::minutes(71));
    let now = app.world.hands.cp.clock.now();
    freehold::identity::sessions::sweep(&mut app.world.db().acquire().await.unwrap(), now).await.unwrap();
    assert_eq!(rows(&app).await, 0);
}
