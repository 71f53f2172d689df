//! A world with real processes over it, and tenants to load.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use super::client::{Wire, request};
use crate::control_plane::approvals::{Grave, NewApproval, approval_give};
use crate::control_plane::tenants::{TenantDetail, TenantRef};
use crate::identity::keys::{NewApiKey, api_key_create, operator_key_create};
use crate::identity::operators::{NewOperator, OperatorRole, operator_add};
use crate::kernel::Role;
use crate::product::{Current, Product};
use crate::testkit::process::{Process, Programs};
use crate::testkit::{World, WorldOptions, tester};

/// Everything a scenario needs but its processes.
pub struct Stage {
    pub world: World,
    pub programs: Programs,
    pub tenants: Vec<Tenant>,
    pub operator_key: String,
}

/// A tenant under load.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub slug: String,
    pub host: String,
    pub key: String,
    pub project: String,
    pub detail: TenantDetail,
}

impl Stage {
    /// Two shards with some spare slots, no tenants yet.
    pub async fn new(binary: &str) -> Self {
        let tables = Current::migrations();
        Self::over(binary, World::with(WorldOptions { shards: 2, tenant_cap: 1_000, slots: 3, tables }).await)
            .await
    }

    /// Over a world of the caller's.
    pub async fn over(binary: &str, world: World) -> Self {
        let programs = Programs::new(binary, &world).await;
        let key = operator_key_create(&world.hands.cp, &tester(), "chaos", None).await;
        let operator_key = key.expect("an operator key").key;
        Self { world, programs, tenants: Vec::new(), operator_key }
    }

    /// Lets the operator's key delete many tenants and remove them at once: it becomes a person's, and the machine agrees.
    ///
    /// # Panics
    /// When the control database does not answer.
    pub async fn agree(&self) {
        let cp = &self.world.hands.cp;
        let new = NewOperator {
            email: "chaos@example.com".to_owned(),
            name: "Chaos".to_owned(),
            role: OperatorRole::Operator,
        };
        let operator = operator_add(cp, &tester(), &new).await.expect("an operator");
        sqlx::query("UPDATE operator_key SET owner = $1")
            .bind(operator.id)
            .execute(self.world.db())
            .await
            .expect("a key of theirs");
        for action in [Grave::Delete, Grave::Purge] {
            let reason = "chaos".to_owned();
            let word = NewApproval { operator: operator.id.to_string(), action, tenants: 1_000, reason };
            approval_give(cp, &tester(), &word).await.expect("a word");
        }
    }

    /// Makes tenants, each with a project. `server` is a process that serves.
    ///
    /// # Panics
    /// When one cannot be made.
    pub async fn people(mut self, server: &Process, count: usize) -> Arc<Self> {
        // Nobody is placed on a shard that was not seen lately, and there may be no worker.
        self.world.probe().await;
        for number in 0..count {
            let tenant = self.tenant(server, &format!("steady-{number}"), "enterprise").await;
            self.tenants.push(tenant);
        }
        Arc::new(self)
    }

    /// One more tenant, with a key and a project.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn tenant(&self, server: &Process, slug: &str, plan: &str) -> Tenant {
        let made = self.world.tenant_with(slug, plan).await;
        let new = NewApiKey { name: "chaos".to_owned(), role: Role::Owner, expires_at: None };
        let cp = &self.world.hands.cp;
        let key = api_key_create(cp, &tester(), &TenantRef::Slug(slug.to_owned()), &new).await;
        let mut tenant = Tenant {
            slug: slug.to_owned(),
            host: format!("{slug}.localhost"),
            key: key.expect("a key").key,
            project: String::new(),
            detail: made,
        };
        let new = json!({ "name": "the project" });
        let ask = request("POST", "/api/v1/projects", &tenant.host, &tenant.key, Some(&new));
        let answer = Wire::open(server.addr).await.expect("it listens").ask(&ask).await.expect("an answer");
        assert_eq!(answer.status, 201, "{}", answer.json());
        answer.json()["id"].as_str().expect("an id").clone_into(&mut tenant.project);
        tenant
    }

    /// A request to the operators' API.
    pub fn operator(&self, method: &str, path: &str, body: Option<&serde_json::Value>) -> Vec<u8> {
        request(method, &format!("/operator/v1/{path}"), "localhost", &self.operator_key, body)
    }

    /// Runs that have neither done nor undone what they were for.
    ///
    /// # Panics
    /// When the control database does not answer.
    pub async fn open_runs(&self) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT id || ' ' || kind || ' ' || state || ' ' || coalesce(error, '') FROM run
              WHERE state NOT IN ('done', 'undone')",
        )
        .fetch_all(self.world.db())
        .await
        .expect("the control database answers")
    }

    /// Sessions on the two servers that are the other end of these connections (own port, server's port). One port may lead
    /// to both servers, from different processes.
    ///
    /// # Panics
    /// When a database does not answer.
    pub async fn sessions(&self, connections: &[(i32, i32)]) -> Vec<Session> {
        let all = self.all_sessions().await;
        all.into_iter()
            .filter(|session| session.port.is_some_and(|port| connections.contains(&(port, session.server))))
            .collect()
    }

    /// How many of these sessions are still there. Not asked by port: a port is soon somebody else's.
    ///
    /// # Panics
    /// When a database does not answer.
    pub async fn still_there(&self, sessions: &[Session]) -> usize {
        self.all_sessions().await.iter().filter(|session| sessions.contains(session)).count()
    }

    async fn all_sessions(&self) -> Vec<Session> {
        let ask = "SELECT pid, backend_start, client_port AS port, inet_server_port() AS server
                     FROM pg_stat_activity";
        let mut found: Vec<Session> =
            sqlx::query_as(ask).fetch_all(self.world.db()).await.expect("the control database answers");
        // The first shard is on the control database's server, the second on the other.
        let mut admin = self.world.shard_conn(1).await;
        let other: Vec<Session> =
            sqlx::query_as(ask).fetch_all(&mut *admin).await.expect("the shard answers");
        found.extend(other);
        found
    }
}

/// A session of a server, told apart from any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Session {
    pid: i32,
    backend_start: DateTime<Utc>,
    port: Option<i32>,
    server: i32,
}

impl Tenant {
    pub fn read(&self) -> Vec<u8> {
        request("GET", &format!("/api/v1/projects/{}", self.project), &self.host, &self.key, None)
    }

    /// A write of two rows: the task, and what happened.
    pub fn write(&self, title: &str) -> Vec<u8> {
        let new = json!({ "project_id": self.project, "title": title });
        request("POST", "/api/v1/tasks", &self.host, &self.key, Some(&new))
    }

    /// Titles of its tasks, and the number of tasks and activities that lack the other.
    ///
    /// # Panics
    /// When the shard does not answer.
    pub async fn on_the_shard(&self, world: &World) -> (Vec<String>, usize) {
        let mut own = PgConnection::connect_with(&world.tenant_login(&self.detail)).await.expect("its login");
        let titles = sqlx::query_scalar("SELECT title FROM tasks").fetch_all(&mut own).await;
        let half: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM tasks t FULL JOIN
                    (SELECT task_id FROM activity WHERE action = 'task.created') a ON a.task_id = t.id
              WHERE t.id IS NULL OR a.task_id IS NULL",
        )
        .fetch_one(&mut own)
        .await
        .expect("the shard answers");
        own.close().await.ok();
        (titles.expect("the shard answers"), usize::try_from(half).expect("a count"))
    }
}
