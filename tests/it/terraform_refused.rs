//! What the driver makes of a cloud that refuses, and of a plan that must be refused. What may be missing before anything
//! begins is in `terraform.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use freehold::adapters::terraform::allow::Allowed;
use freehold::adapters::terraform::progress::Progress;
use freehold::adapters::terraform::{Root, Task, Terraform};
use freehold::db::states::{self, Made};
use freehold::kernel::codes;
use freehold::testkit::{eventually, terraform_is_here};
use http::{StatusCode, header};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::terraform::{Ground, kill_the_one_in, quiet};

/// A cloud that gives no more roles, and lets no key go, while `unwilling` says so. Ends with the test.
async fn between(moto: String, unwilling: Arc<AtomicBool>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let pass = move |request: Request| {
        let (moto, unwilling, client) = (moto.clone(), unwilling.clone(), client.clone());
        async move { pass_on(&moto, &unwilling, &client, request).await }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(pass)).await });
    url
}

async fn pass_on(moto: &str, unwilling: &AtomicBool, client: &reqwest::Client, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let target = parts.headers.get("x-amz-target").map_or(&b""[..], |target| target.as_bytes());
    while unwilling.load(Ordering::Relaxed) && target.ends_with(b"ScheduleKeyDeletion") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let body = to_bytes(body, 10 << 20).await.unwrap();
    if unwilling.load(Ordering::Relaxed) && body.starts_with(b"Action=CreateRole&") {
        let said = "<ErrorResponse><Error><Type>Sender</Type><Code>LimitExceeded</Code>\
                    <Message>Cannot exceed quota for RolesPerAccount: 1000</Message></Error></ErrorResponse>";
        return (StatusCode::CONFLICT, [(header::CONTENT_TYPE, "text/xml")], said).into_response();
    }
    let mut asked = client.request(parts.method, format!("{moto}{}", parts.uri));
    for (name, value) in &parts.headers {
        if *name != header::HOST && *name != header::CONTENT_LENGTH {
            asked = asked.header(name, value);
        }
    }
    let answer = asked.body(body).send().await.unwrap();
    let mut passed = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if *name != header::TRANSFER_ENCODING
            && *name != header::CONTENT_LENGTH
            && *name != header::CONNECTION
        {
            passed = passed.header(name, value);
        }
    }
    passed.body(Body::from(answer.bytes().await.unwrap())).unwrap()
}

async fn behind_it(ground: &Ground) -> (Terraform, Arc<AtomicBool>) {
    let unwilling = Arc::new(AtomicBool::new(false));
    let mut settings = ground.settings.clone();
    let url = between(ground.moto.url.clone(), unwilling.clone()).await;
    settings.env.insert("AWS_ENDPOINT_URL".to_owned(), url);
    (Terraform::new(settings).unwrap(), unwilling)
}

/// A quota that is used up in mid-apply: the cloud's own word is passed on, what was made by then is known, and the next
/// attempt after the quota was raised makes the rest. Nothing is made twice, and nothing belongs to nobody.
#[tokio::test]
async fn a_quota_in_mid_apply_is_said_and_the_rest_follows() {
    if !terraform_is_here() {
        return;
    }
    let ground = Ground::new().await;
    let (terraform, used_up) = behind_it(&ground).await;
    used_up.store(true, Ordering::Relaxed);
    let error = terraform.apply(&ground.task("pooled"), &mut quiet).await.unwrap_err();
    assert!(error.is(&codes::INFRA_FAILED), "{error}");
    let said = error.public_detail().unwrap();
    assert!(said.contains("aws_iam_role") && said.contains("RolesPerAccount"), "{said}");
    assert_eq!(terraform.orphans(&[]).await.unwrap(), Vec::<String>::new());

    used_up.store(false, Ordering::Relaxed);
    terraform.apply(&ground.task("pooled"), &mut quiet).await.unwrap();
    assert_eq!(ground.inventory().await, [1, 1, 1, 0, 0]);
    assert_eq!(terraform.orphans(&[]).await.unwrap(), Vec::<String>::new());
}

/// Killed in mid-destroy, Terraform has saved nothing: the state still names what is gone. The next attempt removes the rest,
/// and makes nothing anew in order to take its protections off.
///
/// Guard, not yet seen to fail: with `unprotect` carrying out its first plan.
#[tokio::test]
async fn what_a_killed_destroy_has_removed_stays_away() {
    if !terraform_is_here() {
        return;
    }
    let ground = Ground::new().await;
    let (terraform, held_back) = behind_it(&ground).await;
    terraform.apply(&ground.task("dedicated"), &mut quiet).await.unwrap();
    held_back.store(true, Ordering::Relaxed);
    let (task, work) = (ground.unprotected("dedicated"), ground.runs());
    let mut killed = false;
    let mut kill_it = |progress: &Progress| {
        let (done, planned) = progress.count();
        // All but the key, which is held back.
        if planned > 10 && done + 1 == planned && !killed {
            killed = kill_the_one_in(&work);
        }
    };
    terraform.destroy(&task, Allowed::DestroyTenant, &mut kill_it).await.unwrap_err();
    assert!(killed);
    held_back.store(false, Ordering::Relaxed);
    assert_eq!(ground.inventory().await[4], 0, "its bucket is gone");
    assert!(ground.state().await.unwrap().contains("aws_s3_bucket"));
    let mut planned = Vec::new();
    let mut note = |progress: &Progress| planned.push(progress.count().1);
    terraform.destroy(&task, Allowed::DestroyTenant, &mut note).await.unwrap();
    assert!(planned.iter().all(|count| *count <= 1), "{planned:?}");
    assert_eq!(ground.inventory().await, [0; 5]);
    assert_eq!(ground.state().await, None);
}

/// A state that another machine has locked is waited for, for as long as the settings say; then it is said who has it.
///
/// Guard, not yet seen to fail: without `lock_argument` in `plan`.
#[tokio::test]
async fn a_locked_state_is_waited_for() {
    if !terraform_is_here() {
        return;
    }
    let ground = Ground::new().await;
    let mut conn = ground.conn().await;
    states::prepare(&mut conn, &Root::ALL.map(Root::as_str)).await.unwrap();
    states::row_add(&mut conn, "tenant", &ground.tenant, "1.11.4").await.unwrap();
    // As the backend does it.
    let lock = "SELECT pg_advisory_lock(id)::text FROM tf_tenant.states WHERE name = $1";
    sqlx::query(lock).bind(&ground.tenant).execute(&mut conn).await.unwrap();
    let mut settings = ground.settings.clone();
    settings.lock_timeout_seconds = 1;
    let impatient = Terraform::new(settings).unwrap();
    let error = impatient.apply(&ground.task("pooled"), &mut quiet).await.unwrap_err();
    assert!(error.is(&codes::INFRA_UNAVAILABLE), "{error}");
    assert!(error.public_detail().unwrap().contains("is locked by session"), "{error}");

    let waiting = tokio::spawn({
        let (terraform, task) = (ground.terraform(), ground.task("pooled"));
        async move { terraform.apply(&task, &mut quiet).await }
    });
    let mut other = ground.conn().await;
    eventually(Duration::from_secs(240), "it has asked for the lock", async || {
        let asked: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                AND pid <> pg_backend_pid() AND query LIKE '%pg_try_advisory_lock%')",
        )
        .fetch_one(&mut other)
        .await
        .unwrap();
        if asked { Ok(()) } else { Err("not yet") }
    })
    .await;
    // The lock is the session's.
    drop(conn);
    waiting.await.unwrap().expect("it was waited for");
    assert_eq!(ground.inventory().await, [1, 1, 1, 0, 0]);
}

fn shard(ground: &Ground, name: &str) -> Task {
    let inputs = json!({
        "environment": ground.settings.environment, "shard": { "name": name }, "network": ground.moto.network()
    });
    let Value::Object(inputs) = inputs else { unreachable!("an object") };
    let secrets = vec![("admin_password".to_owned(), SecretString::from("a-password-of-a-test"))];
    Task { root: Root::Shard, workspace: name.to_owned(), inputs, secrets, once: false }
}

/// A server is there whose database has another name than the code says, which no server changes in place. The plan would
/// replace it, with all that is in it; it is refused as a whole, and the server stays. That it was in no state, and was
/// found by what a killed run had put down, is the way that it got there in this test.
///
/// Guard, not yet seen to fail: without `allow::check` in `Session::apply`.
#[tokio::test]
async fn a_plan_that_would_replace_a_database_is_refused() {
    if !terraform_is_here() {
        return;
    }
    let ground = Ground::new().await;
    let environment = ground.settings.environment.as_str();
    // Names of states are for all environments here.
    let name = format!("s{environment}");
    let form = format!(
        "Action=CreateDBInstance&Version=2014-10-31&DBInstanceIdentifier={environment}-shard-{name}&DBName=another\
         &DBInstanceClass=db.m7g.large&Engine=postgres&EngineVersion=17.5&AllocatedStorage=100\
         &MasterUsername=freehold_admin&MasterUserPassword=a-password-of-a-test"
    );
    ground.moto.form("rds", &form.replace(' ', "")).await;
    let before = ground.moto.inventory(environment).await;
    assert_eq!(before.servers.len(), 1);
    let mut conn = ground.conn().await;
    states::prepare(&mut conn, &Root::ALL.map(Root::as_str)).await.unwrap();
    let made = Made {
        address: "module.shard.aws_db_instance.this".to_owned(),
        kind: "aws_db_instance".to_owned(),
        id: Some("db-of-a-run-that-was-killed".to_owned()),
    };
    states::journal_add(&mut conn, "shard", &name, &made).await.unwrap();

    let error = ground.terraform().apply(&shard(&ground, &name), &mut quiet).await.unwrap_err();
    assert!(error.is(&codes::INFRA_REFUSED), "{error:?}");
    assert!(error.public_detail().unwrap().contains("module.shard.aws_db_instance.this"), "{error}");
    assert_eq!(ground.moto.inventory(environment).await, before, "nothing was changed");
}

/// A shared server that is removed leaves a snapshot, and the key that it cannot be read without: the answer names both, neither
/// is an orphan, and a later server of the same name leaves a snapshot of its own.
///
/// Guards: `parted` in `destroy`, which leaves the key out of the plan; the key's id in `final_snapshot_identifier`.
#[tokio::test]
async fn the_last_snapshot_of_a_server_can_be_read() {
    if !terraform_is_here() {
        return;
    }
    let ground = Ground::new().await;
    let environment = ground.settings.environment.as_str();
    let name = format!("s{environment}");
    let terraform = ground.terraform();
    let mut task = shard(&ground, &name);
    terraform.apply(&task, &mut quiet).await.unwrap();
    let before = ground.moto.inventory(environment).await;
    assert_eq!((before.servers.len(), before.keys.len()), (1, 1));
    task.inputs["shard"]["deletion_protection"] = json!(false);
    task.inputs["shard"]["secret_recovery_days"] = json!(0);
    let kept = terraform.destroy(&task, Allowed::DestroyShard, &mut quiet).await.unwrap();
    let after = ground.moto.inventory(environment).await;
    assert_eq!((after.servers.len(), &after.keys), (0, &before.keys), "the key is as it was");
    let [one] = kept.as_slice() else { panic!("{kept:?}") };
    assert!(one.key.ends_with(&before.keys[0]), "{kept:?}");
    assert_eq!(one.snapshot, format!("{environment}-shard-{name}-final-{}", &before.keys[0][..8]));
    let snapshots = ground.moto.form("rds", "Action=DescribeDBSnapshots&Version=2014-10-31").await;
    assert!(snapshots.contains(&one.snapshot), "{snapshots}");
    let mut conn = ground.conn().await;
    assert_eq!(states::read(&mut conn, "shard", &name).await.unwrap(), None);
    assert_eq!(terraform.orphans(&[]).await.unwrap(), Vec::<String>::new());
    // Removed by hand, if at all.
    terraform.destroy(&task, Allowed::DestroyShard, &mut quiet).await.unwrap();
    assert_eq!(ground.moto.inventory(environment).await.keys, before.keys);
}
