//! A terminal signs in by a code (RFC 8628).

use chrono::TimeDelta;
use freehold::data_plane::tenancy::cookie::{SESSION_COOKIE, csrf_proof};
use freehold::identity::device::Approver;
use freehold::identity::sessions::{SessionKind, session_list, session_revoke};
use freehold::kernel::codes;
use freehold::product::Current;
use freehold::testkit::{AppOptions, TestApp};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::fixture::{identity, person, sign_in};
use super::refresh::form;

async fn start(app: &TestApp) -> (String, String) {
    let fields = [("client_id", "freehold-cli"), ("client_name", "laptop\u{1b}[31m")];
    let (status, body) = form(app, 0, "/oauth/device", &fields).await;
    assert_eq!((status, &body["interval"], &body["expires_in"]), (200, &5.into(), &600.into()), "{body}");
    assert_eq!(body["verification_uri"], "http://localhost/device");
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    assert_eq!(
        text("verification_uri_complete"),
        format!("http://localhost/device?user_code={}", text("user_code"))
    );
    (text("device_code"), text("user_code"))
}

/// What the terminal is told: an error's name, or "" with its tokens.
async fn poll(app: &TestApp, device_code: &str) -> String {
    let grant = "urn:ietf:params:oauth:grant-type:device_code";
    let fields = [("client_id", "freehold-cli"), ("grant_type", grant), ("device_code", device_code)];
    match form(app, 0, "/oauth/token", &fields).await {
        (200, body) => {
            assert!(body["refresh_token"].is_string(), "{body}");
            String::new()
        }
        (400, body) => body["error"].as_str().unwrap_or_default().to_owned(),
        (status, body) => format!("{status} {body}"),
    }
}

/// Shown to fail: without `used_at` in `Asked::judge` a code works twice; without `denied` a no is a "not yet".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_is_good_once_in_time_and_with_a_yes() {
    let app = TestApp::start::<Current>(AppOptions::of::<Current>()).await;
    let (world, clock) = (&app.world, &app.world.hands.cp.clock);
    let identity = identity(world);
    let ada = person(world, "ada").await;
    let base = sign_in(world, ada).await;
    let who = Approver { account: ada, session: base.id };

    let (device, user) = start(&app).await;
    assert_eq!(poll(&app, &device).await, "authorization_pending");
    assert_eq!(poll(&app, &device).await, "slow_down");
    clock.advance(TimeDelta::seconds(5));
    assert_eq!(poll(&app, &device).await, "authorization_pending");
    let ask = identity.device_ask(who, &user.to_lowercase().replace('-', " ")).await.unwrap();
    assert_eq!(ask.client_name, "laptop[31m", "nothing that a terminal would obey");
    identity.device_answer(who, &user, true, None).await.unwrap();
    let again = identity.device_answer(who, &user, false, None).await.unwrap_err();
    assert!(again.is(&codes::NOT_FOUND), "an answer stays");
    assert_eq!(poll(&app, &device).await, "", "a yes does not wait for the interval");
    assert_eq!(poll(&app, &device).await, "invalid_grant", "used twice");
    let mut conn = world.db().acquire().await.unwrap();
    let sessions = session_list(&mut conn, ada, clock.now()).await.unwrap();
    let cli: Vec<_> = sessions.iter().filter(|session| session.kind == SessionKind::Cli).collect();
    assert_eq!(cli.len(), 1);
    assert_eq!((cli[0].user_agent.as_str(), cli[0].method.as_str()), ("laptop[31m", "oidc:example"));

    let (device, user) = start(&app).await;
    identity.device_answer(who, &user, false, None).await.unwrap();
    assert_eq!(poll(&app, &device).await, "access_denied");
    assert!(identity.device_answer(who, &user, true, None).await.is_err(), "no stays no");
    assert_eq!(poll(&app, &device).await, "access_denied");

    let (device, user) = start(&app).await;
    clock.advance(TimeDelta::minutes(11));
    assert_eq!(poll(&app, &device).await, "expired_token");
    assert!(identity.device_answer(who, &user, true, None).await.unwrap_err().is(&codes::NOT_FOUND));
    assert_eq!(poll(&app, &device).await, "expired_token");

    let (device, user) = start(&app).await;
    identity.device_answer(who, &user, true, None).await.unwrap();
    clock.advance(TimeDelta::minutes(11));
    assert_eq!(poll(&app, &device).await, "expired_token", "a yes does not keep for ever");

    // Two ask at once with one code: one gets in.
    let (device, user) = start(&app).await;
    identity.device_answer(who, &user, true, None).await.unwrap();
    let (one, other) = tokio::join!(poll(&app, &device), poll(&app, &device));
    let mut both = [one, other];
    both.sort();
    assert_eq!(both, ["", "invalid_grant"]);

    // The browser that said yes is signed out before the terminal asks.
    let (device, user) = start(&app).await;
    identity.device_answer(who, &user, true, None).await.unwrap();
    session_revoke(&mut conn, ada, base.id, clock.now()).await.unwrap();
    assert_eq!(poll(&app, &device).await, "access_denied");
    let (_, user) = start(&app).await;
    let ended = identity.device_answer(who, &user, true, None).await.unwrap_err();
    assert!(ended.is(&codes::UNAUTHENTICATED));

    for wrong in
        ["", "fhd_x", "fhr_0000000000000000000000000000000000000000_0000000", &device.replace("fhd_", "fhr_")]
    {
        assert_eq!(poll(&app, wrong).await, "invalid_grant", "{wrong:?}");
    }
    let (status, body) = form(&app, 0, "/oauth/device", &[("client_name", "x")]).await;
    assert_eq!((status, &body["error"]), (401, &Value::from("invalid_client")));
}

/// Shown to fail: `throttle::take` in `device_ask` and `device_answer`. Counted in the database: a guesser has one count for all
/// servers, and takes nothing from others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_codes_is_slow() {
    let app = TestApp::start::<Current>(AppOptions::of::<Current>()).await;
    let (world, clock) = (&app.world, &app.world.hands.cp.clock);
    let (here, there) = (identity(world), identity(world));
    let (eve, ada) = (person(world, "eve").await, person(world, "ada").await);
    let guesser = Approver { account: eve, session: sign_in(world, eve).await.id };
    let honest = Approver { account: ada, session: sign_in(world, ada).await.id };
    let (_, user) = start(&app).await;
    let mut guesses = 0;
    for n in 0..40 {
        let server = if n % 2 == 0 { &here } else { &there };
        let wrong = server.device_answer(guesser, "BBBB-BBBB", true, None).await.unwrap_err();
        guesses += usize::from(wrong.is(&codes::NOT_FOUND));
        assert!(wrong.is(&codes::NOT_FOUND) || wrong.is(&codes::RATE_LIMITED), "{wrong:?}");
    }
    assert_eq!(guesses, 10);
    let right = here.device_answer(guesser, &user, true, None).await.unwrap_err();
    assert!(right.is(&codes::RATE_LIMITED), "also when the guess is right");
    assert!(here.device_ask(guesser, &user).await.unwrap_err().is(&codes::RATE_LIMITED));
    here.device_answer(honest, &user, true, None).await.unwrap();
    clock.advance(TimeDelta::seconds(12));
    let one = there.device_ask(guesser, "BBBB-BBBB").await.unwrap_err();
    assert!(one.is(&codes::NOT_FOUND), "one more each twelve seconds");
    assert!(there.device_ask(guesser, "BBBB-BBBB").await.unwrap_err().is(&codes::RATE_LIMITED));

    // And strangers cannot fill the table with codes.
    let mut begun = 0;
    for _ in 0..2_000 {
        match here.device_start("flood").await {
            Ok(_) => begun += 1,
            Err(error) => {
                assert!(error.is(&codes::RATE_LIMITED), "{error:?}");
                break;
            }
        }
    }
    // Two hundred, and what grew back while they were asked for.
    assert!((200..1_000).contains(&begun), "{begun}");
    // One grows back each twentieth of a second, and the next may have it: again until none is left.
    let answer = loop {
        while here.device_start("flood").await.is_ok() {}
        let answer = form(&app, 0, "/oauth/device", &[("client_id", "freehold-cli")]).await;
        if answer.0 != 200 {
            break answer;
        }
    };
    assert_eq!((answer.0, &answer.1["error"]), (429, &Value::from("slow_down")));
}

/// The page: for a person who is signed in, once they meant it. Shown to fail: `Meant` that takes every
/// form.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_where_a_person_says_yes() {
    let app = TestApp::start::<Current>(AppOptions::of::<Current>()).await;
    let world = &app.world;
    let ada = person(world, "ada").await;
    let base = sign_in(world, ada).await;
    let token = base.token.expose_secret().to_owned();
    let client =
        reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
    let get = async |query: &str, cookie: bool| {
        let mut request =
            client.get(app.replicas[0].url(&format!("/device{query}"))).header("host", "localhost");
        if cookie {
            request = request.header("cookie", format!("{SESSION_COOKIE}={token}"));
        }
        let answer = request.send().await.unwrap();
        let to = answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned());
        (answer.status().as_u16(), to.unwrap_or_default(), answer.text().await.unwrap())
    };
    let post = async |user_code: &str, answer: &str, csrf: &str, origin: &str| {
        let fields = [("user_code", user_code), ("answer", answer), ("csrf", csrf)];
        let body = reqwest::Url::parse_with_params("form:", &fields).unwrap().query().unwrap().to_owned();
        let request = client
            .post(app.replicas[0].url("/device"))
            .header("host", "localhost")
            .header("origin", origin)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("cookie", format!("{SESSION_COOKIE}={token}"))
            .body(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (device, user) = start(&app).await;
    let query = format!("?user_code={user}");
    let (status, to, _) = get(&query, false).await;
    assert_eq!(status, 303, "a stranger signs in first");
    assert!(to.starts_with("/sign-in?return_to=%2Fdevice%3Fuser_code%3D"), "{to}");
    let (status, _, page) = get("", true).await;
    assert!(status == 200 && page.contains("name=\"user_code\""), "{page}");
    let (status, _, page) = get("?user_code=BBBB-BBBB", true).await;
    assert!(status == 404 && page.contains("this code is wrong"), "{status} {page}");
    let (status, _, page) = get(&query.to_lowercase(), true).await;
    assert_eq!(status, 200);
    for wanted in ["laptop[31m", user.as_str(), "<strong>ada</strong>", "name=\"csrf\""] {
        assert!(page.contains(wanted), "{wanted}: {page}");
    }
    let csrf = csrf_proof(&token);
    for (csrf, origin) in [("", "http://localhost"), (csrf.as_str(), "http://evil.example.com")] {
        assert_eq!(post(&user, "yes", csrf, origin).await.0, 403);
    }
    assert_eq!(poll(&app, &device).await, "authorization_pending", "nothing was changed");
    let (status, page) = post(&user, "yes", &csrf, "http://localhost").await;
    assert!(status == 200 && page.contains("The device is signed in"), "{status} {page}");
    assert_eq!(poll(&app, &device).await, "");
    assert_eq!(post(&user, "yes", &csrf, "http://localhost").await.0, 404, "answered already");
    let (device, user) = start(&app).await;
    let (status, page) = post(&user, "no", &csrf, "http://localhost").await;
    assert!(status == 200 && page.contains("was not signed in"), "{status} {page}");
    assert_eq!(poll(&app, &device).await, "access_denied");
}
