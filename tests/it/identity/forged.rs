//! Access tokens that are not what they say.

use data_encoding::BASE64URL_NOPAD;
use freehold::identity::access_token::Signer;
use freehold::kernel::Role;
use freehold::kernel::ids::{AccountId, SessionId, TenantId};
use freehold::product::Current;
use freehold::testkit::{AppOptions, TestApp};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};

use super::fixture::{identity, person, seat, sign_in, terminal};

const ME: &str = "/api/v1/me";

/// A token with this header and these claims, signed by whatever key and algorithm.
fn signed(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = BASE64URL_NOPAD.encode(&sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn with(base: &Value, changes: Value) -> Value {
    let mut value = base.clone();
    for (name, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => value.as_object_mut().unwrap().remove(name),
            change => value.as_object_mut().unwrap().insert(name.clone(), change.clone()),
        };
    }
    value
}

fn ed25519(signer: &Signer) -> impl Fn(&[u8]) -> Vec<u8> {
    let pair = aws_lc_rs::signature::Ed25519KeyPair::from_pkcs8(signer.key.as_bytes()).unwrap();
    move |message| pair.sign(message).as_ref().to_vec()
}

fn hmac(key: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
    move |message| aws_lc_rs::hmac::sign(&key, message).as_ref().to_vec()
}

fn decoded(token: &str, part: usize) -> Value {
    let text = token.split('.').nth(part).unwrap();
    serde_json::from_slice(&BASE64URL_NOPAD.decode(text.as_bytes()).unwrap()).unwrap()
}

/// Each is refused with the one answer that any stranger gets, and the keys that headers point to are never fetched.
///
/// Shown to fail, each for its own rows: the checks of type, strange headers, issuer, audience, expiry and time in
/// `access_token`, and the session's in `by_token` (a token is about its own account's sessions). The algorithm has two
/// guards, each enough: ours, and the one that `Validation` names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_tokens_are_strangers() {
    let app = TestApp::start::<Current>(AppOptions::of::<Current>()).await;
    let world = &app.world;
    let identity = identity(world);
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let (ada, eve) = (person(world, "ada").await, person(world, "eve").await);
    seat(world, &acme, ada, Role::Owner).await;
    seat(world, &acme, eve, Role::Viewer).await;
    let mut laptop = terminal(&identity, ada, sign_in(world, ada).await.id).await;
    let good = laptop.token(&identity, "acme").await;
    let status = async |token: &str| app.send(app.request(Method::GET, "acme", token, ME)).await;
    assert_eq!(status(&good).await.0, 200);

    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let trap_url = format!("http://{}/jwks.json", trap.local_addr().unwrap());
    let signer = identity.keyring.signer().await.unwrap();
    let ours = ed25519(&signer);
    let (header, claims) = (decoded(&good, 0), decoded(&good, 1));
    assert_eq!((&header["alg"], &header["typ"]), (&"EdDSA".into(), &"at+jwt".into()));
    let resigned = |header: &Value, claims: &Value| signed(header, claims, &ours);
    assert_eq!(status(&resigned(&header, &claims)).await.0, 200, "the test signs as the server does");

    let jwks = identity.keyring.published().await.unwrap();
    let x = jwks[0]["x"].as_str().unwrap();
    let public = BASE64URL_NOPAD.decode(x.as_bytes()).unwrap();
    let foreign = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
    let by_foreign = |message: &[u8]| foreign.sign(message).as_ref().to_vec();
    let now = world.hands.cp.clock.now().timestamp();
    let mut flipped = good.clone().into_bytes();
    let last = flipped.len() - 10;
    flipped[last] = if flipped[last] == b'A' { b'B' } else { b'A' };
    let alg = |name: &str| with(&header, json!({ "alg": name }));
    let says = |changes: Value| resigned(&header, &with(&claims, changes));
    let headed = |changes: Value| resigned(&with(&header, changes), &claims);
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        data_encoding::BASE64.encode(&public)
    );
    let classic =
        encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&public)).unwrap();

    let forged: Vec<(&str, String)> = vec![
        ("alg none", signed(&alg("none"), &claims, |_| Vec::new())),
        ("alg None", signed(&alg("None"), &claims, |_| Vec::new())),
        ("no alg", signed(&with(&header, json!({ "alg": null })), &claims, |_| Vec::new())),
        ("HS256 with the public key", signed(&alg("HS256"), &claims, hmac(&public))),
        ("HS256 with the public key's text", signed(&alg("HS256"), &claims, hmac(x.as_bytes()))),
        ("HS256 with the public key's PEM", signed(&alg("HS256"), &claims, hmac(pem.as_bytes()))),
        ("HS256, no kid", classic),
        ("another algorithm's name", signed(&alg("ES256"), &claims, &ours)),
        ("another key", signed(&header, &claims, by_foreign)),
        ("a changed signature", String::from_utf8(flipped).unwrap()),
        ("no signature", good.rsplit_once('.').unwrap().0.to_owned() + "."),
        ("two parts", good.rsplit_once('.').unwrap().0.to_owned()),
        ("a fourth part", format!("{good}.x")),
        ("an unknown kid", headed(json!({ "kid": "unknown" }))),
        ("a kid that is a path", headed(json!({ "kid": "../../../../etc/passwd" }))),
        ("no kid", headed(json!({ "kid": null }))),
        ("a long kid", headed(json!({ "kid": "k".repeat(1_000) }))),
        ("a key's address", headed(json!({ "jku": trap_url }))),
        ("a certificate's address", headed(json!({ "x5u": trap_url }))),
        (
            "a key in the header",
            signed(
                &with(
                    &header,
                    json!({ "kid": "mine", "jwk": { "kty": "OKP", "crv": "Ed25519",
                        "x": BASE64URL_NOPAD.encode(aws_lc_rs::signature::KeyPair::public_key(&foreign).as_ref()) } }),
                ),
                &claims,
                by_foreign,
            ),
        ),
        ("an extension nobody knows", headed(json!({ "crit": ["x"], "x": 1 }))),
        ("an ID token's type", headed(json!({ "typ": "JWT" }))),
        ("no type", headed(json!({ "typ": null }))),
        ("another issuer", says(json!({ "iss": "https://evil.example.com" }))),
        ("no issuer", says(json!({ "iss": null }))),
        ("another audience", says(json!({ "aud": "https://other.example.com/api" }))),
        (
            "the person's audience",
            says(json!({ "aud": format!("{}/oauth/userinfo", claims["iss"].as_str().unwrap()) })),
        ),
        ("two audiences", says(json!({ "aud": [claims["aud"], "https://other.example.com"] }))),
        ("no audience", says(json!({ "aud": null }))),
        ("no tenant", says(json!({ "tenant": null }))),
        ("expired", says(json!({ "iat": now - 700, "exp": now - 100 }))),
        ("expires now", says(json!({ "iat": now - 600, "exp": now }))),
        ("no expiry", says(json!({ "exp": null }))),
        ("from the future", says(json!({ "iat": now + 300, "exp": now + 800 }))),
        ("good for a day", says(json!({ "exp": now + 86_400 }))),
        ("good for ever", says(json!({ "iat": now, "exp": i64::MAX }))),
        ("another account with this session", says(json!({ "sub": eve }))),
        ("nobody's account", says(json!({ "sub": AccountId::new() }))),
        ("nobody's session", says(json!({ "sid": SessionId::new() }))),
        ("an account that is none", says(json!({ "sub": "ten_06fqv3k1s9t4m7b2n8c5v0r6e4" }))),
        ("too long", says(json!({ "x": "x".repeat(4_000) }))),
        ("nothing", "eyJ".to_owned()),
        ("rubbish", "eyJ.eyJ.eyJ".to_owned()),
    ];
    let mut accepted = Vec::new();
    for (what, token) in &forged {
        let (status, body) = status(token).await;
        if (status, body["code"].as_str()) != (401, Some("unauthenticated")) {
            accepted.push(format!("{what}: {status} {body}"));
        }
    }
    assert!(accepted.is_empty(), "of {} forgeries:\n{}", forged.len(), accepted.join("\n"));
    let fetched = tokio::time::timeout(std::time::Duration::from_millis(50), trap.accept()).await;
    assert!(fetched.is_err(), "somebody followed a header's address");

    // Well made, but not for here: the seat decides, and the host, and both say that there is nothing.
    let strays = [says(json!({ "tenant": globex.tenant.id })), says(json!({ "tenant": TenantId::new() }))];
    for token in &strays {
        assert_eq!(status(token).await.0, 404);
        assert_eq!(app.send(app.request(Method::GET, "globex", token, ME)).await.0, 404);
    }
    assert_eq!(app.send(app.request(Method::GET, "globex", &good, ME)).await.0, 404, "another tenant's host");
    // The role in the token is for people to read.
    let raised = says(json!({ "role": "owner", "sub": ada }));
    assert_eq!(status(&raised).await.1["role"], "owner");
    assert_eq!(status(&good).await.0, 200);
}

/// What a token opens: its tenant's API, with the rights of the seat; and what it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_for_one_thing() {
    let app = TestApp::start::<Current>(AppOptions::of::<Current>()).await;
    let world = &app.world;
    let identity = identity(world);
    let (acme, globex) = (world.tenant("acme").await, world.tenant("globex").await);
    let ada = person(world, "ada").await;
    seat(world, &acme, ada, Role::Owner).await;
    seat(world, &globex, ada, Role::Viewer).await;
    let mut laptop = terminal(&identity, ada, sign_in(world, ada).await.id).await;
    let about_me = laptop.tokens.access_token.clone();
    let for_acme = laptop.token(&identity, "acme").await;
    let for_globex = laptop.token(&identity, &globex.tenant.id.to_string()).await;

    let (status, me) = app.send(app.request(Method::GET, "acme", &for_acme, ME)).await;
    assert_eq!((status, &me["account"], &me["role"]), (200, &json!(ada), &"owner".into()));
    let new = json!({ "name": "First" });
    let projects = "/api/v1/projects";
    assert_eq!(app.send(app.request(Method::POST, "acme", &for_acme, projects).json(&new)).await.0, 201);
    assert_eq!(app.send(app.request(Method::POST, "globex", &for_globex, projects).json(&new)).await.0, 403);
    assert_eq!(app.send(app.request(Method::GET, "globex", &for_globex, projects)).await.0, 200);
    assert_eq!(app.send(app.request(Method::GET, "acme", &about_me, ME)).await.0, 401);

    let info = |host: &str, token: &str| {
        app.client.get(app.replicas[0].url("/oauth/userinfo")).header("host", host).bearer_auth(token)
    };
    let (status, body) = app.send(info("localhost", &about_me)).await;
    assert_eq!((status, &body["sub"], &body["name"]), (200, &json!(ada), &"ada".into()));
    let seats: Vec<(&str, &str)> = body["tenants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|seat| (seat["slug"].as_str().unwrap(), seat["role"].as_str().unwrap()))
        .collect();
    assert_eq!(seats, [("acme", "owner"), ("globex", "viewer")]);
    assert_eq!(app.send(info("localhost", &for_acme)).await.0, 401, "a tenant's token");
    assert_eq!(app.send(info("acme.localhost", &about_me)).await.0, 404, "not at a tenant's host");
    let key = app.key("acme", Role::Owner).await;
    assert_eq!(app.send(info("localhost", &key)).await.0, 401, "a key");
}
