//! A control database with shards of its own, for one test.

use std::time::Duration;

use secrecy::SecretString;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::Cluster;
use crate::app;
use crate::control_plane::audit::Caller;
use crate::control_plane::errands::Errands;
use crate::control_plane::infra::{Cloud, dedicated};
use crate::control_plane::plans::{self, Tier};
use crate::control_plane::provisioning::{NewTenant, tenant_create};
use crate::control_plane::shards::{NewPool, NewShard, Shard, pool_add, shard_add, shard_by_id};
use crate::control_plane::tenant_jobs::TenantJobs;
use crate::control_plane::tenants::{TenantDetail, TenantRef, tenant_show};
use crate::control_plane::{Addresses, ControlPlane, Hands, Turns, probe, runs, slots};
use crate::db::admin::ShardAdmins;
use crate::db::{control, migrations, prepare};
use crate::jobs::run::{Run, RunState};
use crate::kernel::ids::RunId;
use crate::kernel::{Clock, Entropy, MasterKey, Result, SecretRef};
use crate::product::Current;

/// Long enough for any run on a busy machine.
pub const RUN_LIMIT: Duration = Duration::from_secs(60);

/// How a [`World`] is to be.
pub struct WorldOptions {
    /// Shards, placed on the two servers in turn.
    pub shards: usize,
    pub tenant_cap: i32,
    /// Spare slots made on each shard at the start, and kept by a worker if one runs.
    pub slots: i32,
    /// What tenant schemas hold.
    pub tables: &'static Migrator,
}

/// A control plane with real databases. They go with the cluster.
pub struct World {
    pub hands: Hands,
    pub control_url: String,
    pub master_hex: String,
    pub shards: Vec<Shard>,
    /// Admin DSNs of the shards, in order.
    pub shard_urls: Vec<String>,
    /// Where the shards' DSNs are kept.
    pub folder: TempDir,
}

/// Who the tests are, in the audit log.
pub fn tester() -> Caller {
    Caller { actor: "test".to_owned(), request_id: None }
}

impl World {
    /// Two shards with room, no spare slots.
    pub async fn new(tables: &'static Migrator) -> Self {
        Self::with(WorldOptions { shards: 2, tenant_cap: 1_000, slots: 0, tables }).await
    }

    /// # Panics
    /// When anything goes wrong: no test can do without.
    pub async fn with(options: WorldOptions) -> Self {
        Self::build(options).await.expect("the test's control plane")
    }

    async fn build(options: WorldOptions) -> Result<Self> {
        let cluster = Cluster::shared().await;
        let database = cluster.server(0).create_database("control", Some(control_template().await)).await;
        let control_url = cluster.server(0).admin_url(&database);
        // A copied database has its template's contents, and not its access list.
        let shut = format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC");
        sqlx::raw_sql(sqlx::AssertSqlSafe(shut)).execute(&small_pool(&control_url)?).await?;
        let master: [u8; 32] = Entropy::default().bytes();
        let cp = ControlPlane {
            db: small_pool(&control_url)?,
            clock: Clock::movable(),
            entropy: Entropy::default(),
            addresses: Addresses {
                scheme: "http".to_owned(),
                base_domain: "localhost".to_owned(),
                port: None,
            },
            tables: options.tables,
            turns: Turns::default(),
        };
        let hands = Hands {
            cp,
            admins: ShardAdmins::with(MasterKey::from_bytes(master)),
            master: MasterKey::from_bytes(master),
            worker: "test".to_owned(),
            errands: Errands::default(),
            tenant_jobs: TenantJobs::default(),
            cloud: Cloud::default(),
        };
        let mut world = Self {
            hands,
            control_url,
            master_hex: data_encoding::HEXLOWER.encode(&master),
            shards: Vec::new(),
            shard_urls: Vec::new(),
            folder: TempDir::new().map_err(crate::kernel::Error::internal)?,
        };
        for index in 0..options.shards {
            let url = Self::shard_database(index % 2).await;
            world.add_shard(&url, options.tenant_cap, options.slots).await?;
        }
        Ok(world)
    }

    /// The admin DSN of a new database on one of the two servers, ready to be added as a shard.
    pub async fn shard_database(server: usize) -> String {
        let template = shard_template(server).await;
        let server = Cluster::shared().await.server(server);
        server.admin_url(&server.create_database("shard", Some(template)).await)
    }

    /// Adds a shard with this admin DSN to the pool `default`, and fills its slots.
    pub async fn add_shard(&mut self, url: &str, tenant_cap: i32, slots: i32) -> Result<()> {
        self.add_shard_to("default", url, tenant_cap, slots).await
    }

    /// The same, to any pool.
    pub async fn add_shard_to(&mut self, pool: &str, url: &str, tenant_cap: i32, slots: i32) -> Result<()> {
        let name = format!("shard-{}", self.shards.len() + 1);
        let file = self.folder.path().join(&name);
        std::fs::write(&file, url).map_err(crate::kernel::Error::internal)?;
        let new = NewShard {
            name,
            pool: pool.to_owned(),
            dsn: SecretRef::File(file.to_string_lossy().into_owned()),
            tenant_cap,
            slots,
        };
        let (id, run) = shard_add(&self.hands.cp, &tester(), &new).await?;
        self.finish(run).await;
        let shard = shard_by_id(&mut *self.hands.cp.db.acquire().await?, id).await?;
        slots::slot_fill(&self.hands, &shard, i64::from(slots), || {}).await?;
        self.shards.push(shard_by_id(&mut *self.hands.cp.db.acquire().await?, id).await?);
        self.shard_urls.push(url.to_owned());
        Ok(())
    }

    pub fn db(&self) -> &PgPool {
        &self.hands.cp.db
    }

    /// Carries a run out and gives it as it ended.
    pub async fn finish(&self, run: RunId) -> Run {
        runs::carry_out(&self.hands, run, RUN_LIMIT, |_| {}).await.expect("the run can be read")
    }

    /// Makes a tenant and waits until it is ready.
    pub async fn tenant(&self, slug: &str) -> TenantDetail {
        self.tenant_with(slug, "enterprise").await
    }

    pub async fn tenant_with(&self, slug: &str, plan: &str) -> TenantDetail {
        let new = NewTenant { slug: slug.to_owned(), name: None, plan: Some(plan.to_owned()) };
        let run = self.create(&new).await.expect("the tenant is accepted");
        let ended = self.finish(run).await;
        assert_eq!(ended.state, RunState::Done, "{:?}", ended.error);
        self.show(slug).await
    }

    /// Puts a plan `dedicated` on sale, whose tenants get servers of their own by this world's cloud.
    ///
    /// # Panics
    /// When it is on sale already.
    pub async fn sell_dedicated(&self) {
        let cp = &self.hands.cp;
        let pool = NewPool { name: "dedicated".into(), region: "local".into(), tier: Tier::Dedicated };
        pool_add(cp, &tester(), &pool).await.expect("the pool");
        let plans = plans::with_dedicated_example().expect("the shipped plans");
        plans::apply(cp, &tester(), &plans, false).await.expect("the plans");
        dedicated::seen(&self.hands).await.expect("it is said");
    }

    /// Records a new tenant without carrying its run out.
    pub async fn create(&self, new: &NewTenant) -> Result<RunId> {
        let mut tx = self.db().begin().await?;
        let (_, run) = tenant_create(&self.hands.cp, &mut tx, &tester(), new).await?;
        tx.commit().await?;
        Ok(run)
    }

    pub async fn show(&self, slug: &str) -> TenantDetail {
        tenant_show(&self.hands.cp, &TenantRef::Slug(slug.to_owned())).await.expect("the tenant is there")
    }

    /// The shard, and its admin DSN, that a tenant is on.
    pub fn shard_of(&self, tenant: &TenantDetail) -> (&Shard, &str) {
        let index = self
            .shards
            .iter()
            .position(|shard| Some(&shard.name) == tenant.tenant.shard.as_ref())
            .expect("the tenant is placed");
        (&self.shards[index], &self.shard_urls[index])
    }

    /// How to log in as a tenant.
    pub fn tenant_login(&self, tenant: &TenantDetail) -> PgConnectOptions {
        use secrecy::ExposeSecret;
        let role = tenant.role.as_deref().expect("the tenant is placed");
        let (_, url) = self.shard_of(tenant);
        let admin: PgConnectOptions = url.parse().expect("a DSN");
        admin.username(role).password(self.hands.master.login_password(role, 1).expose_secret())
    }

    /// An admin session on a shard.
    pub async fn shard_conn(&self, index: usize) -> sqlx::pool::PoolConnection<sqlx::Postgres> {
        self.hands.admin(&self.shards[index]).await.expect("the shard answers")
    }

    /// Looks at the shards, as a worker does every two seconds.
    pub async fn probe(&self) {
        probe::probe_all(&self.hands).await.expect("the control database answers");
    }

    /// Schemas and logins of tenants on all shards that no tenant and no slot accounts for.
    pub async fn orphans(&self) -> Vec<String> {
        let known: Vec<String> =
            sqlx::query_scalar("SELECT schema_name FROM slot").fetch_all(self.db()).await.unwrap();
        let mut found = Vec::new();
        for index in 0..self.shards.len() {
            let mut conn = self.shard_conn(index).await;
            let there: Vec<String> = sqlx::query_scalar(
                "SELECT nspname::text FROM pg_namespace WHERE nspname ~ '^t_[0-9a-v]{26}$'
                 UNION SELECT schema_name FROM freehold.schema_version
                 UNION SELECT rolname::text FROM pg_roles
                        WHERE rolname ~ '^t_[0-9a-v]{26}$' AND has_database_privilege(oid, current_database(), 'CONNECT')",
            )
            .fetch_all(&mut *conn)
            .await
            .unwrap();
            found.extend(there.into_iter().filter(|name| !known.contains(name)));
        }
        found
    }
}

/// A pool small enough for many tests to run side by side.
pub fn small_pool(url: &str) -> Result<PgPool> {
    Ok(PgPoolOptions::new()
        .max_connections(6)
        .acquire_timeout(Duration::from_secs(10))
        .connect_lazy_with(control::options(&SecretString::from(url.to_owned()), "test")?))
}

/// A migrated control database with the plans and one pool, copied for each test.
async fn control_template() -> &'static str {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    TEMPLATE
        .get_or_init(|| async {
            let server = Cluster::shared().await.server(0);
            let name = server.create_database("control_template", None).await;
            let options = server.admin_url(&name).parse().expect("a DSN");
            migrations::migrate(&migrations::CONTROL, &options).await.expect("the control migrations");
            let pool = small_pool(&server.admin_url(&name)).expect("a DSN");
            let cp = ControlPlane {
                db: pool.clone(),
                clock: Clock::System,
                entropy: Entropy::default(),
                addresses: Addresses { scheme: "http".into(), base_domain: "localhost".into(), port: None },
                tables: &migrations::CONTROL,
                turns: Turns::default(),
            };
            app::meters::<Current>(&cp).await.expect("the meters");
            let shipped = plans::parse(plans::SHIPPED).expect("the shipped plans");
            plans::apply(&cp, &tester(), &shipped, false).await.expect("the plans");
            let pool_new = NewPool { name: "default".into(), region: "local".into(), tier: Tier::Pooled };
            pool_add(&cp, &tester(), &pool_new).await.expect("the pool");
            // Nobody may be connected to a template.
            pool.close().await;
            name
        })
        .await
}

/// A shard database whose closing is done: the few hundred revocations are copied with it.
async fn shard_template(server: usize) -> &'static str {
    static TEMPLATES: [OnceCell<String>; 2] = [OnceCell::const_new(), OnceCell::const_new()];
    TEMPLATES[server]
        .get_or_init(|| async {
            let server = Cluster::shared().await.server(server);
            let name = server.create_database("shard_template", None).await;
            prepare::prepare(&server.admin_url(&name).parse().expect("a DSN"))
                .await
                .expect("the shard is prepared");
            name
        })
        .await
}
