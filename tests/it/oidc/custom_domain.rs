//! From the sign-in host to a tenant's own domain.

use freehold::data_plane::tenancy::cookie::SESSION_COOKIE;
use freehold::kernel::Role;
use freehold::testkit::{Browser, TestApp};
use reqwest::{Method, Url};

use super::fixture::{BASE, parameter, seat_for, signed_in, with_rogue};

/// No slug of ours, so some tenant's own; below `localhost`, so that the browser finds us.
const ACME: &str = "work.acme.localhost";
const GLOBEX: &str = "work.globex.localhost";

async fn own(app: &TestApp, slug: &str, domain: &str) {
    sqlx::query("INSERT INTO tenant_domain (domain, tenant, created_at) SELECT $2, id, now() FROM tenant WHERE slug = $1")
        .bind(slug)
        .bind(domain)
        .execute(app.world.db())
        .await
        .unwrap();
}

async fn code_at(browser: &Browser, host: &str) -> Url {
    let start: Url = format!("http://{host}/enter?return_to=/projects").parse().unwrap();
    let page = browser.ask(Method::GET, &start, None, None).await;
    let to_code = |url: &Url| url.query_pairs().all(|(key, _)| key != "code");
    browser.follow(page, to_code).await.leads_to().expect("a code")
}

/// The way is the same: from a page there to the sign-in host, and back with a code for this browser, this tenant, once.
///
/// Shown to fail: `role_in` taken out of `on_to`; the tenant of the host not looked up in `redeem` (another's code is good);
/// `go_to_domain` sending to whatever host is asked for.
#[tokio::test]
async fn a_person_enters_at_their_workspaces_own_domain() {
    let (app, rogue) = with_rogue().await;
    let acme = app.world.tenant("acme").await;
    app.world.tenant("globex").await;
    own(&app, "acme", ACME).await;
    own(&app, "globex", GLOBEX).await;
    let stranger = Browser::new(&app);
    let page = stranger.open(&format!("http://{ACME}/projects")).await;
    assert_eq!((page.url.path(), page.url.host_str()), ("/sign-in", Some("localhost")), "{}", page.body);

    let browser = signed_in(&app, &rogue, "rogue", "ada").await;
    seat_for(&app, &rogue, "ada", &acme, Role::Owner).await;
    let page = browser.open(&format!("http://{ACME}/projects")).await;
    assert_eq!(
        (page.status, page.url.as_str()),
        (200, format!("http://{ACME}/projects").as_str()),
        "{}",
        page.body
    );
    let token = browser.cookie(ACME, SESSION_COOKIE).expect("a session there");
    assert_eq!(browser.cookie("acme.localhost", SESSION_COOKIE), None, "and nowhere else");
    let at = |host: &str| {
        let request = app.client.get(app.replicas[0].url("/api/v1/me")).header("host", host.to_owned());
        app.send(request.header("cookie", format!("{SESSION_COOKIE}={token}")))
    };
    assert_eq!(at(ACME).await.0, 200);
    assert_eq!((at(GLOBEX).await.0, at("globex.localhost").await.0), (404, 404), "another tenant's hosts");

    // A member's form there works, as at the slug's host.
    let members = browser.open(&format!("http://{ACME}/members")).await;
    assert_eq!(members.status, 200);

    // Only for those with a seat, and only to a domain that a tenant has.
    for host in [
        GLOBEX,
        "work.nobody.localhost",
        "evil.example",
        "localhost",
        "acme.localhost",
        "",
        "a b",
        "127.0.0.1",
    ] {
        let url = Url::parse_with_params(&format!("{BASE}/go"), [("host", host)]).unwrap();
        let page = browser.open(url.as_str()).await;
        assert_eq!((page.status, page.url.host_str()), (404, Some("localhost")), "{host}: {}", page.url);
    }
    // A code is for the tenant of the host it is brought to, and for the browser that asked.
    let with_code = code_at(&browser, ACME).await;
    assert!(parameter(&with_code, "code").starts_with("fhh_"));
    let mark = browser.cookie(ACME, "__Host-freehold-enter").expect("the mark");
    browser.plant(GLOBEX, "__Host-freehold-enter", &mark);
    assert_eq!(browser.open(&with_code.as_str().replace(ACME, GLOBEX)).await.status, 400, "another's domain");
    assert_eq!(Browser::new(&app).open(with_code.as_str()).await.status, 400, "another browser");
    assert_eq!(browser.open(with_code.as_str()).await.status, 200);
    assert_eq!(browser.open(with_code.as_str()).await.status, 400, "used");
}
