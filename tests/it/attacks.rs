//! Someone who can run any SQL as one tenant's login wants another tenant's rows (trust A3, A4 at the connection).
//!
//! The guard is the login itself: a role of its own, with rights on its own schema alone, on a database where PUBLIC
//! has nothing. `the_attacks_work_when_the_guard_is_gone` takes it away and sees the same list of attacks succeed.

use freehold::control_plane::tenants::TenantDetail;
use freehold::db::hardening;
use freehold::testkit::{World, WorldOptions};
use sqlx::{Column, Connection, Executor, PgConnection, Row, TypeInfo, ValueRef};

use crate::provisioning::TABLES;

pub const CANARY: &str = "canary-of-the-victim";

/// Puts the canary into the tables of the tenant whose login this is.
pub async fn plant(own: &mut PgConnection) {
    sqlx::query("INSERT INTO idempotency (actor, key, request_hash, body) VALUES ($1, $1, '\\x00', $2)")
        .bind(CANARY)
        .bind(CANARY.as_bytes())
        .execute(own)
        .await
        .unwrap();
}

struct Scene {
    world: World,
    attacker: TenantDetail,
    victim: TenantDetail,
}

async fn scene() -> Scene {
    let world = World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: &TABLES }).await;
    let attacker = world.tenant("attacker").await;
    let victim = world.tenant("victim").await;
    let mut own = PgConnection::connect_with(&world.tenant_login(&victim)).await.unwrap();
    plant(&mut own).await;
    sqlx::query("INSERT INTO freehold.outbox (kind, key, payload) VALUES ('usage', $1, to_jsonb($1))")
        .bind(CANARY)
        .execute(&mut own)
        .await
        .unwrap();
    Scene { world, attacker, victim }
}

/// Each may fail or not; none may show the canary or leave anything behind.
pub fn attacks(victim: &str, attacker: &str, owner: &str) -> Vec<String> {
    let rows = format!("SELECT actor FROM {victim}.idempotency");
    let mut list: Vec<String> = vec![
        rows.clone(),
        format!("TABLE {victim}.idempotency"),
        format!("SET search_path = {victim}; SELECT actor FROM idempotency"),
        format!("SELECT set_config('search_path', '{victim}', false); SELECT actor FROM idempotency"),
        format!("RESET search_path; {rows}"),
        format!("SET ROLE {victim}; {rows}"),
        format!("SET LOCAL ROLE {victim}; {rows}"),
        format!("SELECT set_config('role', '{victim}', false); {rows}"),
        format!("SET ROLE {owner}; {rows}"),
        format!("SET SESSION AUTHORIZATION {victim}; {rows}"),
        format!("RESET SESSION AUTHORIZATION; {rows}"),
        format!("RESET ROLE; {rows}"),
        format!("DISCARD ALL; {rows}"),
        format!("DO $x$ BEGIN EXECUTE 'SET ROLE {victim}'; END $x$; {rows}"),
        format!("DO $x$ DECLARE r text; BEGIN SELECT actor INTO r FROM {victim}.idempotency; RAISE NOTICE '%', r; END $x$"),
        format!("SELECT query_to_xml('{rows}', true, false, '')::text"),
        format!("SELECT table_to_xml('{victim}.idempotency', true, false, '')::text"),
        format!("SELECT schema_to_xml('{victim}', true, false, '')::text"),
        "SELECT database_to_xml(true, false, '')::text".to_owned(),
        format!("COPY {victim}.idempotency TO STDOUT"),
        format!("COPY ({rows}) TO PROGRAM 'cat'"),
        format!("CREATE VIEW peek AS {rows}; SELECT * FROM peek"),
        format!("CREATE TEMP VIEW peek AS {rows}; SELECT * FROM peek"),
        "CREATE TEMP TABLE idempotency (actor text)".to_owned(),
        format!("CREATE TABLE {attacker}.mine (x int)"),
        format!("CREATE TABLE {victim}.mine (x int)"),
        "CREATE TABLE public.mine (x int)".to_owned(),
        "CREATE SCHEMA mine".to_owned(),
        format!("CREATE FUNCTION {attacker}.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
        format!("CREATE FUNCTION {victim}.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
        "CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS 'SELECT 1'".to_owned(),
        format!("CREATE OPERATOR {attacker}.= (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)"),
        format!("ALTER TABLE {attacker}.idempotency ADD COLUMN x int"),
        format!("ALTER TABLE {victim}.idempotency OWNER TO {attacker}"),
        format!("CREATE TRIGGER t AFTER INSERT ON {attacker}.idempotency EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()"),
        format!("CREATE RULE r AS ON INSERT TO {attacker}.idempotency DO ALSO {rows}"),
        format!("GRANT {victim} TO {attacker}; {rows}"),
        format!("GRANT {owner} TO {attacker}; SET ROLE {owner}; {rows}"),
        format!("ALTER ROLE {attacker} SUPERUSER"),
        format!("ALTER ROLE {attacker} BYPASSRLS"),
        format!("ALTER ROLE {victim} PASSWORD 'x'"),
        "CREATE ROLE helper LOGIN".to_owned(),
        "CREATE EXTENSION dblink".to_owned(),
        "CREATE EXTENSION plperlu".to_owned(),
        "CREATE LANGUAGE plpgsql".to_owned(),
        "LOAD 'auto_explain'".to_owned(),
        "SELECT payload::text FROM freehold.outbox".to_owned(),
        "DELETE FROM freehold.outbox RETURNING payload::text".to_owned(),
        "UPDATE freehold.outbox SET kind = 'x' RETURNING payload::text".to_owned(),
        format!("INSERT INTO freehold.outbox (role_name, kind, key, payload) VALUES ('{victim}', 'usage', 'x', '1')"),
        "INSERT INTO freehold.outbox (kind, key, payload) VALUES ('usage', 'x', '1') RETURNING (SELECT string_agg(payload::text, ',') FROM freehold.outbox)".to_owned(),
        "SELECT * FROM freehold.schema_version".to_owned(),
        "SELECT freehold.raise_fence('x', 9223372036854775807)".to_owned(),
        "SELECT pg_read_file('PG_VERSION')".to_owned(),
        "SELECT lo_import('/etc/passwd')".to_owned(),
        "SELECT lo_create(4711)".to_owned(),
        "SELECT pg_advisory_lock(1)".to_owned(),
        "SELECT pg_sleep(0.01)".to_owned(),
        "SELECT pg_database_size(current_database())".to_owned(),
        format!("SELECT pg_relation_size('{victim}.idempotency')"),
        "SELECT query FROM pg_stat_activity".to_owned(),
        "SELECT relname, n_live_tup FROM pg_stat_all_tables".to_owned(),
        "SELECT rolname FROM pg_roles".to_owned(),
        "SELECT datname FROM pg_database".to_owned(),
        "SELECT * FROM pg_locks".to_owned(),
        "SELECT setconfig::text FROM pg_db_role_setting".to_owned(),
        "SELECT rolpassword FROM pg_authid".to_owned(),
        "SELECT most_common_vals::text FROM pg_stats".to_owned(),
        "SELECT stavalues1::text FROM pg_statistic".to_owned(),
        format!("EXPLAIN ANALYZE {rows}"),
        format!("PREPARE p AS {rows}; EXECUTE p"),
        format!("DECLARE c CURSOR WITH HOLD FOR {rows}; FETCH ALL FROM c"),
        format!("BEGIN; SAVEPOINT s; SET LOCAL ROLE {victim}; {rows}; COMMIT"),
        format!("LOCK TABLE {victim}.idempotency IN ACCESS EXCLUSIVE MODE"),
        format!("TRUNCATE {victim}.idempotency"),
        format!("INSERT INTO {victim}.idempotency (actor, key, request_hash) VALUES ('x', 'x', '')"),
        format!("ALTER TABLE {attacker}.idempotency INHERIT {victim}.idempotency"),
        format!("SELECT has_table_privilege('{victim}.idempotency', 'SELECT'), ({rows} LIMIT 1)"),
    ];
    // Foreign keys reveal whether a value exists in another table.
    list.push(format!(
        "ALTER TABLE {attacker}.idempotency ADD FOREIGN KEY (actor, key) REFERENCES {victim}.idempotency"
    ));
    list
}

/// Everything a set of rows says, as text.
pub fn words(rows: &[sqlx::postgres::PgRow]) -> String {
    let mut all = String::new();
    for row in rows {
        for column in row.columns() {
            let raw = row.try_get_raw(column.ordinal()).unwrap();
            if raw.is_null() {
                continue;
            }
            all += column.type_info().name();
            all += &String::from_utf8_lossy(raw.as_bytes().unwrap_or_default());
            all.push('\n');
        }
    }
    all
}

/// Runs every attack, by both protocols, each on a connection of its own; returns those that saw the canary.
async fn run_attacks(scene: &Scene) -> Vec<String> {
    let login = scene.world.tenant_login(&scene.attacker);
    let owner = freehold::db::admin::owner_role(scene.world.shards[0].database.as_deref().unwrap());
    let (victim, attacker) =
        (scene.victim.schema.as_deref().unwrap(), scene.attacker.schema.as_deref().unwrap());
    let mut seen = Vec::new();
    for attack in attacks(victim, attacker, &owner) {
        let mut conn = PgConnection::connect_with(&login).await.unwrap();
        // Simple protocol: the whole text at once, as an injection into a batch would be.
        let simple = conn.fetch_all(sqlx::raw_sql(sqlx::AssertSqlSafe(attack.clone()))).await;
        conn.close().await.ok();
        let mut said = simple.map_or_else(|error| error.to_string(), |rows| words(&rows));
        // Extended protocol: one prepared statement after the other, in one session.
        let mut conn = PgConnection::connect_with(&login).await.unwrap();
        for part in attack.split("; ") {
            let rows = sqlx::query(sqlx::AssertSqlSafe(part.to_owned())).fetch_all(&mut conn).await;
            said += &rows.map_or_else(|error| error.to_string(), |rows| words(&rows));
        }
        conn.close().await.ok();
        if said.contains(CANARY) {
            seen.push(attack);
        }
    }
    seen
}

/// How much there is on the shard, to see that nothing was added.
async fn inventory(scene: &Scene) -> Vec<i64> {
    let mut conn = scene.world.shard_conn(0).await;
    let mut counts = Vec::new();
    for catalogue in [
        "pg_class",
        "pg_proc",
        "pg_namespace",
        "pg_operator",
        "pg_largeobject_metadata",
        "pg_extension",
        "pg_rewrite",
        "pg_trigger",
    ] {
        let sql = format!("SELECT count(*) FROM {catalogue} WHERE oid >= 16384");
        counts.push(sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *conn).await.unwrap());
    }
    counts
}

#[tokio::test]
async fn any_sql_as_one_tenant_shows_nothing_of_another_and_leaves_nothing() {
    let scene = scene().await;
    let before = inventory(&scene).await;
    assert_eq!(run_attacks(&scene).await, Vec::<String>::new());
    assert_eq!(inventory(&scene).await, before, "an attack left an object behind");
    let mut own = PgConnection::connect_with(&scene.world.tenant_login(&scene.victim)).await.unwrap();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM idempotency").fetch_one(&mut own).await.unwrap();
    assert_eq!(rows, 1, "the victim's rows are as they were");
    let forged: i64 =
        sqlx::query_scalar("SELECT count(*) FROM freehold.outbox WHERE key = 'x' AND role_name::text = $1")
            .bind(scene.victim.role.as_deref())
            .fetch_one(&mut *scene.world.shard_conn(0).await)
            .await
            .unwrap();
    assert_eq!(forged, 0, "a row in the victim's name");
}

/// The same list against a build without the guard: if it finds nothing here, it proves nothing above.
#[tokio::test]
async fn the_attacks_work_when_the_guard_is_gone() {
    let scene = scene().await;
    let (victim, attacker) =
        (scene.victim.schema.as_deref().unwrap(), scene.attacker.schema.as_deref().unwrap());
    let open = format!(
        "GRANT USAGE ON SCHEMA {victim} TO {attacker}; GRANT SELECT ON ALL TABLES IN SCHEMA {victim} TO {attacker};
         GRANT SELECT ON freehold.outbox TO {attacker}; ALTER TABLE freehold.outbox DISABLE ROW LEVEL SECURITY"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(open)).execute(&mut *scene.world.shard_conn(0).await).await.unwrap();
    let seen = run_attacks(&scene).await;
    assert!(seen.len() >= 15, "only these worked: {seen:#?}");
}

#[tokio::test]
async fn a_tenants_login_reaches_its_own_database_only() {
    let world = World::with(WorldOptions { shards: 2, tenant_cap: 10, slots: 0, tables: &TABLES }).await;
    let tenant = world.tenant("acme").await;
    let login = world.tenant_login(&tenant);
    PgConnection::connect_with(&login).await.unwrap();
    let (shard, _) = world.shard_of(&tenant);
    let home = shard.database.clone().unwrap();
    let control = world.control_url.rsplit('/').next().unwrap().to_owned();
    for database in ["postgres", "template1", control.as_str()] {
        let refused = PgConnection::connect_with(&login.clone().database(database)).await;
        let error = refused.err().unwrap_or_else(|| panic!("{home}'s tenant got into {database}"));
        assert!(error.as_database_error().is_some(), "{error}");
    }
}

/// What PUBLIC may do on a fresh shard: nothing of what could tell one tenant about another.
#[tokio::test]
async fn a_prepared_shard_is_closed() {
    let world = World::with(WorldOptions { shards: 1, tenant_cap: 10, slots: 0, tables: &TABLES }).await;
    let mut conn = world.shard_conn(0).await;
    let ours = |open: &hardening::Opening| open.kind != "database";
    let open: Vec<_> = hardening::openings(&mut conn).await.unwrap().into_iter().filter(ours).collect();
    assert_eq!(open, []);
    // It is the check that finds: open one of each kind, and it says so.
    sqlx::raw_sql(
        "GRANT EXECUTE ON FUNCTION pg_sleep(double precision) TO PUBLIC; GRANT SELECT ON pg_stat_activity TO PUBLIC;
         GRANT USAGE ON LANGUAGE plpgsql TO PUBLIC; GRANT CREATE ON SCHEMA public TO PUBLIC",
    )
    .execute(&mut *conn)
    .await
    .unwrap();
    let found: Vec<_> = hardening::openings(&mut conn)
        .await
        .unwrap()
        .into_iter()
        .filter(ours)
        .map(|open| open.kind)
        .collect();
    assert_eq!(found, ["function", "language", "relation", "schema"]);
    hardening::close(&mut conn).await.unwrap();
    assert!(!hardening::openings(&mut conn).await.unwrap().iter().any(ours));
}

/// A row of a kind that nobody reads would stay for ever. Shown to fail: the constraint taken out of the migration.
#[tokio::test]
async fn only_what_is_read_gets_into_the_outbox() {
    let world = World::new(&TABLES).await;
    let tenant = world.tenant("acme").await;
    let mut own = PgConnection::connect_with(&world.tenant_login(&tenant)).await.unwrap();
    for (kind, goes) in [("usage", true), ("Usage", false), ("event", false)] {
        let added = sqlx::query("INSERT INTO freehold.outbox (kind, key, payload) VALUES ($1, 'k', '{}')")
            .bind(kind)
            .execute(&mut own)
            .await;
        assert_eq!(added.is_ok(), goes, "{kind}");
    }
}
