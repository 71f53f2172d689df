//! Fifty tenants on one shard with rows in them, and a server in front as in production: Redis, metrics, and logs.
//! A schema beside them, of the same tables and rows, is for what they are measured against.

use std::fs::OpenOptions;
use std::sync::OnceLock;
use std::time::Duration;

use freehold::kernel::Role;
use freehold::product::opsflow::words::ProjectId;
use freehold::product::{Current, Product};
use freehold::telemetry::{logs, numbers};
use freehold::testkit::wire::{Shot, Target};
use freehold::testkit::{AppOptions, Cluster, TestApp, WorldOptions};
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;

use super::pgbench;

pub const TENANTS: usize = 50;
/// Connections to the shard: enough that all tenants stay warm.
pub const BUDGET: usize = 160;
/// Rows of the table that is listed, in each schema. A third of them is asked for, twenty at a time.
const TASKS: i32 = 600;

pub struct Warm {
    pub app: TestApp,
    pub tenants: Vec<Tenant>,
    /// The schema beside the tenants'.
    pub schema: String,
    /// How to log in to it.
    pub beside: PgConnectOptions,
}

pub struct Tenant {
    pub slug: String,
    pub schema: String,
    pub host: String,
    pub key: String,
    pub project: ProjectId,
}

impl Tenant {
    /// What each of its rows bears. The brackets keep `warm-1` apart from `warm-10`.
    pub fn stamp(&self) -> String {
        format!("[{}]", self.slug)
    }

    pub fn read(&self) -> Shot {
        let path = format!("/api/v1/projects/{}", self.project);
        Shot::get(&path, &self.host, &self.key).stamped(&self.stamp(), 1)
    }

    pub fn list(&self) -> Shot {
        Shot::get("/api/v1/tasks?status=todo", &self.host, &self.key).stamped(&self.stamp(), 20)
    }

    pub fn write(&self) -> Shot {
        let body = format!(
            r#"{{"project_id":"{}","title":"{} written","priority":"high","assignee":"ada"}}"#,
            self.project,
            self.stamp()
        );
        Shot::new("POST", "/api/v1/tasks", &self.host, &self.key, Some(&body)).stamped(&self.stamp(), 1)
    }
}

impl Warm {
    pub async fn start() -> Self {
        Self::with_plans(&["enterprise"; TENANTS]).await
    }

    /// A tenant for each plan.
    pub async fn with_plans(plans: &[&str]) -> Self {
        as_in_production();
        Cluster::durable().await;
        let app = TestApp::start::<Current>(AppOptions {
            world: WorldOptions { shards: 1, tenant_cap: 1_000, slots: 0, tables: Current::migrations() },
            worker: false,
            broker_budget: BUDGET,
            roomy: true,
            ..AppOptions::of::<Current>()
        })
        .await;
        let mut tenants = Vec::new();
        for (index, plan) in plans.iter().enumerate() {
            tenants.push(tenant(&app, &format!("warm-{index}"), plan).await);
        }
        let beside = app.world.tenant("beside").await;
        let schema = beside.role.clone().expect("it is placed");
        let mut admin = app.world.shard_conn(0).await;
        for tenant in &tenants {
            furnish(&mut admin, &schema, tenant, TASKS / tenants.len() as i32).await;
        }
        // What limits a tenant is no part of what is measured against.
        let unlimited = format!(r#"ALTER ROLE "{schema}" CONNECTION LIMIT -1"#);
        execute(&mut admin, unlimited).await;
        execute(&mut admin, "VACUUM ANALYZE".to_owned()).await;
        execute(&mut admin, "CHECKPOINT".to_owned()).await;
        let beside = app.world.tenant_login(&beside).options([("statement_timeout", "0")]);
        Self { app, tenants, schema, beside }
    }

    /// Reads a second of one project by its id, with nothing but PostgreSQL and pgbench.
    pub async fn pgbench(&self, connections: usize, length: Duration) -> Result<f64, String> {
        let (schema, project) = (&self.schema, self.tenants[0].project.0);
        let query = format!("SELECT * FROM \"{schema}\".projects WHERE id = '{project}'");
        pgbench::reads(&self.app.world.shard_urls[0], &query, connections, length).await
    }

    pub fn target(&self) -> Target {
        Target { addr: self.app.replicas[0].addr }
    }

    pub fn shots(&self, of: impl Fn(&Tenant) -> Shot) -> Vec<Shot> {
        self.tenants.iter().map(of).collect()
    }
}

/// Numbers are counted and logs are written, though to nowhere, for the rest of the process. Gives the numbers.
pub fn as_in_production() -> &'static PrometheusHandle {
    static NUMBERS: OnceLock<PrometheusHandle> = OnceLock::new();
    NUMBERS.get_or_init(|| {
        logs::init_json_into(OpenOptions::new().write(true).open("/dev/null").expect("/dev/null"));
        numbers::install().expect("nothing else in this program counts")
    })
}

async fn tenant(app: &TestApp, slug: &str, plan: &str) -> Tenant {
    app.world.probe().await;
    let made = app.world.tenant_with(slug, plan).await;
    let key = app.key(slug, Role::Owner).await;
    let tenant = Tenant {
        slug: slug.to_owned(),
        schema: made.role.expect("it is placed"),
        host: format!("{slug}.localhost"),
        key,
        project: ProjectId::new(),
    };
    let mut admin = app.world.shard_conn(0).await;
    furnish(&mut admin, &tenant.schema, &tenant, TASKS).await;
    tenant
}

/// A project and tasks, which bear the tenant's stamp.
async fn furnish(admin: &mut PgConnection, schema: &str, tenant: &Tenant, tasks: i32) {
    let (project, stamp) = (tenant.project.0, tenant.stamp());
    execute(
        admin,
        format!(
            r#"SET search_path = "{schema}";
            INSERT INTO projects (id, name, description, status, created_by, created_at, updated_at)
            VALUES ('{project}', '{stamp} project', 'What the tasks belong to.', 'active', 'bench', now(), now());
            INSERT INTO tasks (id, project_id, title, description, status, priority, assignee, due_at, created_by,
                created_at, updated_at)
            SELECT gen_random_uuid(), '{project}', '{stamp} task ' || i, 'A few words about what is to be done.',
                (ARRAY['todo', 'in_progress', 'done'])[i % 3 + 1], (ARRAY['low', 'normal', 'high'])[i % 3 + 1],
                'ada', now(), 'bench', now() - i * interval '1 minute', now()
            FROM generate_series(1, {tasks}) AS i;
            RESET search_path"#
        ),
    )
    .await;
}

/// Any number of statements of the bench's own.
pub async fn execute(admin: &mut PgConnection, sql: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(admin).await.expect("the bench's own SQL");
}

/// A fixed, even scatter, so that any two runs ask the same tenants in the same order.
pub fn scatter(number: usize) -> usize {
    let mut mixed = (number as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as usize >> 1
}
