//! What a routed request is measured against: the same statements, the same JSON, the same HTTP server, over sqlx's own
//! pool with one login. No tenancy, no keys, no limits, no checks, no logs, no numbers, no time limits, no compression.

use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use freehold::data_plane::usage::Fact;
use freehold::http::serve::{self, ServeOptions};
use freehold::kernel::Clock;
use freehold::kernel::page::{self, Page};
use freehold::product::opsflow::activity::model::Entry;
use freehold::product::opsflow::projects::{Project, store as projects};
use freehold::product::opsflow::tasks::{NewTask, Task, TaskQuery, query, store as tasks};
use freehold::product::opsflow::words::{ActivityId, ProjectId, TaskId};
use freehold::testkit::wire::Target;
use http::StatusCode;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, QueryBuilder};
use tokio_util::sync::CancellationToken;

/// The server; it stops when this is dropped.
pub struct Bare {
    pub target: Target,
    stop: CancellationToken,
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Bare {
    pub async fn start(login: PgConnectOptions, connections: usize) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(u32::try_from(connections).expect("not that many"))
            // It would cost a round trip of its own.
            .test_before_acquire(false)
            .connect_with(login.statement_cache_capacity(64))
            .await
            .expect("the schema beside the tenants'");
        let app = Router::new()
            .route("/api/v1/projects/{id}", get(project))
            .route("/api/v1/tasks", get(list).merge(post(create)))
            .with_state(pool);
        let listener = serve::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let target = Target { addr: listener.local_addr().expect("the port") };
        let stop = CancellationToken::new();
        tokio::spawn(serve::serve(listener, app, stop.clone(), ServeOptions::default()));
        Self { target, stop }
    }
}

type Answer<T> = Result<T, StatusCode>;

fn failed<E>(_: E) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}

async fn project(State(pool): State<PgPool>, Path(id): Path<ProjectId>) -> Answer<Json<Project>> {
    let mut conn = pool.acquire().await.map_err(failed)?;
    let found = projects::project_by_id(&mut conn, id).await.map_err(failed)?;
    found.map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn list(State(pool): State<PgPool>, Query(asked): Query<TaskQuery>) -> Answer<Json<Page<Task>>> {
    let mut conn = pool.acquire().await.map_err(failed)?;
    let sort = asked.sort;
    let mut select = QueryBuilder::new("");
    query::push_tasks_page(&mut select, &asked, None, page::DEFAULT_LIMIT).map_err(failed)?;
    let rows = select.build_query_as().fetch_all(&mut *conn).await.map_err(failed)?;
    Ok(Json(Page::build(rows, page::DEFAULT_LIMIT, |row: &Task| (sort, sort.key(row), row.id))))
}

async fn create(State(pool): State<PgPool>, Json(new): Json<NewTask>) -> Answer<(StatusCode, Json<Task>)> {
    let entry = Entry {
        id: ActivityId::new(),
        at: Clock::System.now(),
        actor_id: "key_06fqv3k1s9t4m7b2n8c5v0r6e4".to_owned(),
        actor_name: "owner".to_owned(),
        action: "task.created",
        changes: new.changes(),
    };
    let mut tx = pool.begin().await.map_err(failed)?;
    let id = TaskId::new();
    let payload = r#"{"meter":"tasks_created","quantity":1,"at":1800000000000000}"#.to_owned();
    let used = Fact { key: format!("tasks_created:{id}"), payload };
    let made = tasks::task_insert(&mut tx, &entry, id, &new, Some(&used)).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    made.map(|task| (StatusCode::CREATED, Json(task))).ok_or(StatusCode::NOT_FOUND)
}
