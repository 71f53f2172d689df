//! Mail domains over the API, proven by a real name server on loopback through the real resolver.

use std::time::{Duration, Instant};

use freehold::adapters::dns::txt_lookup_at;
use freehold::kernel::Role;
use freehold::product::Current;
use freehold::testkit::{AppOptions, DnsAnswer, DnsServer, TestApp};
use reqwest::Method;
use serde_json::{Value, json};

const DOMAINS: &str = "/api/v1/domains";

/// The look-up alone: what it gives for each thing that a name server may do.
///
/// Shown to fail: `is_no` saying yes to every error (a failure is taken for an absence).
#[tokio::test]
async fn a_name_server_says_yes_no_or_nothing() {
    let dns = DnsServer::start().await;
    let lookup = txt_lookup_at(&[dns.addr]);
    let parts = |all: &[&str]| all.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
    let long = "x".repeat(250);
    let many: Vec<Vec<String>> = (0..150).map(|n| vec![format!("{n}"), long.clone()]).collect();
    dns.set("one.example", DnsAnswer::txt("v=1"));
    dns.set("two.example", DnsAnswer::Txt(vec![parts(&["a", "b", "c"]), parts(&["d"])]));
    dns.set("many.example", DnsAnswer::Txt(many));
    dns.set("long.example", DnsAnswer::Txt(vec![vec![long.clone(); 20]]));
    dns.set("bare.example", DnsAnswer::Nothing);
    dns.set("broken.example", DnsAnswer::Failure);
    dns.set("silent.example", DnsAnswer::Silence);
    dns.set("rubbish.example", DnsAnswer::Rubbish);
    let ask = async |name: &str| lookup(name.to_owned()).await;
    assert_eq!(ask("one.example").await.unwrap(), ["v=1"]);
    assert_eq!(ask("two.example").await.unwrap(), ["abc", "d"], "the parts of a record are one text");
    let many = ask("many.example").await.unwrap();
    assert_eq!((many.len(), many[149].as_str()), (150, format!("149{long}").as_str()), "over TCP");
    assert_eq!(ask("long.example").await.unwrap()[0].len(), 1_024, "no record is read for ever");
    assert_eq!(ask("bare.example").await.unwrap(), [""; 0]);
    assert_eq!(ask("nowhere.example").await.unwrap(), [""; 0]);
    for name in ["broken.example", "silent.example", "rubbish.example"] {
        let began = Instant::now();
        assert!(ask(name).await.is_err(), "{name}");
        assert!(began.elapsed() < Duration::from_secs(15), "{name}: {:?}", began.elapsed());
    }
    assert!(dns.asked() >= 9);
    // What is not a name does no harm.
    assert!(ask("a..b").await.is_err());
}

/// Named, shown with its record, looked for, proven, opened, given up.
///
/// Shown to fail: a failed look-up taken for an empty answer in `domain_verify`.
#[tokio::test]
async fn a_workspace_proves_its_domain() {
    let dns = DnsServer::start().await;
    let txt = Some(txt_lookup_at(&[dns.addr]));
    let app =
        TestApp::start::<Current>(AppOptions { worker: false, txt, ..AppOptions::of::<Current>() }).await;
    app.world.tenant("acme").await;
    app.world.tenant("globex").await;
    let (acme, globex) = (app.key("acme", Role::Admin).await, app.key("globex", Role::Admin).await);
    let ask = async |slug: &str, method: Method, path: &str, body: Option<Value>| {
        let key = if slug == "acme" { &acme } else { &globex };
        let request = app.request(method, slug, key, path);
        app.send(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    };
    for bad in ["", "localhost", "gmail.com", "a b.com", "127.0.0.1"] {
        let (status, body) = ask("acme", Method::POST, DOMAINS, Some(json!({ "domain": bad }))).await;
        assert_eq!(status, 422, "{bad}: {body}");
    }
    let named = json!({ "domain": "Example.com" });
    let (status, domain) = ask("acme", Method::POST, DOMAINS, Some(named.clone())).await;
    assert_eq!((status, &domain["record"]), (201, &"_freehold.example.com".into()), "{domain}");
    assert_eq!(domain["verified_at"], Value::Null);
    let challenge = domain["challenge"].as_str().unwrap();
    let verify = format!("{DOMAINS}/example.com/verify");
    for (answer, says) in [
        (DnsAnswer::NoSuchName, "there is no TXT record"),
        (DnsAnswer::Nothing, "there is no TXT record"),
        (DnsAnswer::txt("freehold-verification=another"), "there is no TXT record"),
        (DnsAnswer::Failure, "do not answer"),
        (DnsAnswer::Silence, "do not answer"),
        (DnsAnswer::Rubbish, "do not answer"),
    ] {
        dns.set("_freehold.example.com", answer.clone());
        let (status, body) = ask("acme", Method::POST, &verify, None).await;
        let detail = body["detail"].as_str().unwrap_or_default();
        assert!(status == 409 && detail.contains(says), "{answer:?}: {status} {body}");
    }
    dns.set("_freehold.example.com", DnsAnswer::txt(challenge));
    let (status, proven) = ask("acme", Method::POST, &verify, None).await;
    assert!(status == 200 && proven["verified_at"].is_string(), "{status} {proven}");
    ask("globex", Method::POST, DOMAINS, Some(named)).await;
    let (status, body) = ask("globex", Method::POST, &verify, None).await;
    assert_eq!(status, 409, "{body}");

    let one = format!("{DOMAINS}/example.com");
    let (status, open) = ask("acme", Method::PATCH, &one, Some(json!({ "join_role": "viewer" }))).await;
    assert_eq!((status, &open["join_role"]), (200, &"viewer".into()), "{open}");
    for bad in [json!({}), json!({ "join_role": "admin" }), json!({ "join_role": "god" })] {
        assert_eq!(ask("acme", Method::PATCH, &one, Some(bad.clone())).await.0, 422, "{bad}");
    }
    let (_, shut) = ask("acme", Method::PATCH, &one, Some(json!({ "join_role": null }))).await;
    assert_eq!(shut["join_role"], Value::Null);
    let (_, list) = ask("acme", Method::GET, DOMAINS, None).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(ask("acme", Method::DELETE, &one, None).await.0, 204);
    assert_eq!(ask("acme", Method::DELETE, &one, None).await.0, 404);
    let actions: Vec<String> = sqlx::query_scalar(
        "SELECT action FROM audit WHERE action LIKE 'domain.%' AND actor LIKE 'key_%' ORDER BY id",
    )
    .fetch_all(app.world.db())
    .await
    .unwrap();
    let wanted = [
        "domain.add",
        "domain.verify",
        "domain.add",
        "domain.join_role",
        "domain.join_role",
        "domain.remove",
    ];
    assert_eq!(actions, wanted);
}
