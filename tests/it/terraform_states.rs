//! The database of Terraform's states, without Terraform: what is refused, and what is remembered.

use freehold::adapters::terraform::Root;
use freehold::db::states::{self, Kept, Made, States};
use freehold::kernel::codes;
use freehold::testkit::Cluster;
use secrecy::SecretString;
use sqlx::PgConnection;

async fn fresh() -> PgConnection {
    let server = Cluster::shared().await.server(0);
    let database = server.create_database("states", None).await;
    let states = States::at(&SecretString::from(server.admin_url(&database))).unwrap();
    let mut conn = states.connect().await.unwrap();
    states::prepare(&mut conn, &Root::ALL.map(Root::as_str)).await.unwrap();
    conn
}

/// Terraform run by hand without `PG_SCHEMA_NAME` puts its state where this program does not look: everything would be made a
/// second time, and what is there would be listed as nobody's. Guard: `misplaced` in `row_add` and in `row_need`.
#[tokio::test]
async fn a_state_in_another_schema_is_not_begun_anew() {
    let mut conn = fresh().await;
    states::row_add(&mut conn, "shard", "before", "1.11.4").await.unwrap();
    sqlx::raw_sql(
        "CREATE SCHEMA terraform_remote_state;
         CREATE TABLE terraform_remote_state.states (id bigint PRIMARY KEY, name text UNIQUE, data text);
         INSERT INTO terraform_remote_state.states VALUES (1, 'prod', '{}'), (2, 'eu-1', '{}'), (3, 'before', '{}')",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    let error = states::row_add(&mut conn, "shard", "eu-1", "1.11.4").await.unwrap_err();
    assert!(error.is(&codes::INFRA_REFUSED), "{error:?}");
    assert!(error.public_detail().unwrap().contains("PG_SCHEMA_NAME=tf_shard"), "{error}");
    assert_eq!(states::read(&mut conn, "shard", "eu-1").await.unwrap(), None);
    let error = states::row_need(&mut conn, "platform", "prod").await.unwrap_err();
    assert!(error.is(&codes::INFRA_REFUSED), "{error:?}");
    // As the hint says.
    let said = error.public_hint().unwrap().to_owned();
    let move_it = said.split_once("is done: ").unwrap().1.split_once("; if not").unwrap().0.to_owned();
    sqlx::raw_sql(sqlx::AssertSqlSafe(move_it)).execute(&mut conn).await.unwrap();
    states::row_need(&mut conn, "platform", "prod").await.unwrap();
    // What is where it belongs is nobody's trouble, and neither are others.
    states::row_add(&mut conn, "shard", "before", "1.11.4").await.unwrap();
    states::row_add(&mut conn, "shard", "eu-2", "1.11.4").await.unwrap();
    let error = states::row_need(&mut conn, "platform", "test").await.unwrap_err();
    assert!(error.is(&codes::NOT_FOUND), "{error:?}");
}

/// What was left half done hides for a day what it made, and longer only while somebody is at work on it. Guard: the age in
/// `unsettled`.
#[tokio::test]
async fn what_was_given_up_hides_nothing() {
    let mut conn = fresh().await;
    let made = Made { address: "a.b".to_owned(), kind: "a".to_owned(), id: None };
    for workspace in ["today", "given-up", "stuck"] {
        states::journal_add(&mut conn, "shard", workspace, &made).await.unwrap();
    }
    sqlx::query(
        "UPDATE freehold.terraform_journal SET made_at = made_at - interval '2 days' WHERE workspace <> 'today'",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    let mut found = states::unsettled(&mut conn, &["stuck".to_owned()]).await.unwrap();
    found.sort();
    assert_eq!(found, ["stuck", "today"]);
}

/// A state goes with the key that is kept for a last snapshot, and with nothing else in it. Guard: `is_kept` in `row_delete`.
#[tokio::test]
async fn a_state_goes_when_only_a_kept_key_is_left() {
    let mut conn = fresh().await;
    states::row_add(&mut conn, "shard", "eu-1", "1.11.4").await.unwrap();
    let key = |arn: &str| {
        serde_json::json!({ "version": 4, "resources": [
            { "mode": "managed", "type": "aws_kms_key", "name": "this", "instances": [{ "attributes": { "arn": arn } }] },
        ] })
        .to_string()
    };
    let write = "UPDATE tf_shard.states SET data = $1 WHERE name = 'eu-1'";
    states::kept_add(&mut conn, &Kept { key: "arn:kept".to_owned(), snapshot: "s".to_owned() })
        .await
        .unwrap();
    sqlx::query(write).bind(key("arn:other")).execute(&mut conn).await.unwrap();
    let error = states::row_delete(&mut conn, "shard", "eu-1", false).await.unwrap_err();
    assert!(error.is(&codes::INFRA_REFUSED), "{error:?}");
    sqlx::query(write).bind(key("arn:kept")).execute(&mut conn).await.unwrap();
    states::row_delete(&mut conn, "shard", "eu-1", false).await.unwrap();
    assert_eq!(states::read(&mut conn, "shard", "eu-1").await.unwrap(), None);
}
