//! On twenty thousand tasks every filter, with every sort, is answered from an index: no statement reads the table.

use freehold::product::opsflow::activity::model::{ActivityQuery, ActivitySort, Subject};
use freehold::product::opsflow::activity::store::push_activity_page;
use freehold::product::opsflow::comments::CommentQuery;
use freehold::product::opsflow::comments::store::push_comments_page;
use freehold::product::opsflow::list::{Key, Kind};
use freehold::product::opsflow::projects::store::push_projects_page;
use freehold::product::opsflow::projects::{ProjectQuery, ProjectSort};
use freehold::product::opsflow::tasks::query::push_tasks_page;
use freehold::product::opsflow::tasks::{TaskQuery, TaskSort};
use freehold::product::opsflow::words::{
    ActivityId, CommentId, Priority, ProjectId, ProjectStatus, TaskId, TaskStatus,
};
use serde_json::Value;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::fixture::{Workspace, at};

const ROWS: f64 = 20_000.0;

const FILL: &str = "
INSERT INTO projects (id, name, description, status, created_by, created_at, updated_at)
SELECT md5('p' || n)::uuid, 'project ' || n, '', CASE n % 50 WHEN 0 THEN 'archived' ELSE 'active' END, 'key',
       '2030-01-01Z'::timestamptz + n * interval '1 minute', '2030-02-01Z'::timestamptz - n * interval '1 minute'
FROM generate_series(1, 2000) AS n;
INSERT INTO tasks (id, project_id, title, description, status, priority, assignee, due_at, created_by, created_at, updated_at)
SELECT md5('t' || n)::uuid, md5('p' || (1 + abs(hashint4(n)) % 100))::uuid, 'title ' || CASE n % 200 WHEN 0 THEN 'needle' ELSE 'hay' END, '',
       (ARRAY['todo', 'in_progress', 'blocked', 'done', 'cancelled'])[1 + abs(hashint4(-n)) % 5],
       (ARRAY['low', 'normal', 'high', 'urgent'])[1 + abs(hashint4(n + 30000)) % 4],
       CASE WHEN n % 10 > 0 THEN 'person ' || abs(hashint4(n + 60000)) % 50 END,
       CASE WHEN n % 3 > 0 THEN '2030-01-01Z'::timestamptz + (n * 7919 % 20000) * interval '1 minute' END,
       'key', '2030-01-01Z'::timestamptz + n * interval '1 minute',
       '2030-03-01Z'::timestamptz + (n * 104729 % 20000) * interval '1 minute'
FROM generate_series(1, 20000) AS n;
INSERT INTO comments (id, task_id, body, author_id, author_name, created_at)
SELECT md5('c' || n)::uuid, md5('t' || (1 + n % 500))::uuid, 'text', 'key', 'Key', '2030-01-01Z'::timestamptz + n * interval '1 minute'
FROM generate_series(1, 20000) AS n;
INSERT INTO activity (id, at, actor_id, actor_name, action, project_id, task_id, comment_id, changes)
SELECT md5('a' || n)::uuid, '2030-01-01Z'::timestamptz + n * interval '1 minute', 'key ' || n % 50, 'Key', 'x',
       md5('p' || (1 + n % 100))::uuid, md5('t' || (1 + n % 500))::uuid,
       CASE WHEN n % 2 = 0 THEN md5('c' || n)::uuid END, '{}'
FROM generate_series(1, 20000) AS n;
ANALYZE projects; ANALYZE tasks; ANALYZE comments; ANALYZE activity;";

async fn filled() -> PgConnection {
    let workspace = Workspace::new().await;
    let mut conn = workspace.owner_connection().await;
    sqlx::raw_sql(FILL).execute(&mut conn).await.unwrap();
    conn
}

/// Asserts that a plan takes its rows from indexes; gives how many it looked at.
async fn served_by_an_index(conn: &mut PgConnection, mut explain: QueryBuilder<Postgres>, what: &str) -> f64 {
    let plan: Value = explain.build_query_scalar().fetch_one(conn).await.unwrap();
    let mut read = 0.0;
    walk(&plan[0]["Plan"], &mut |node| {
        let kind = node["Node Type"].as_str().unwrap();
        assert_ne!(kind, "Seq Scan", "{what}: {plan:#}");
        if kind.contains("Scan") && kind != "Bitmap Index Scan" {
            let number = |name: &str| node[name].as_f64().unwrap_or(0.0);
            read += number("Actual Rows")
                + number("Rows Removed by Filter")
                + number("Rows Removed by Index Recheck");
        }
    });
    read
}

fn walk(node: &Value, visit: &mut impl FnMut(&Value)) {
    visit(node);
    for child in node["Plans"].as_array().into_iter().flatten() {
        walk(child, visit);
    }
}

fn explain() -> QueryBuilder<Postgres> {
    QueryBuilder::new("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) ")
}

#[tokio::test]
async fn tasks() {
    let mut conn = filled().await;
    let project: Uuid = sqlx::query_scalar("SELECT md5('p7')::uuid").fetch_one(&mut conn).await.unwrap();
    let some = TaskQuery::default;
    let filters = [
        ("none", some()),
        ("project", TaskQuery { project: Some(ProjectId(project)), ..some() }),
        ("status", TaskQuery { status: Some(vec![TaskStatus::Blocked]), ..some() }),
        ("statuses", TaskQuery { status: Some(vec![TaskStatus::Todo, TaskStatus::Done]), ..some() }),
        ("priority", TaskQuery { priority: Some(vec![Priority::Urgent]), ..some() }),
        ("assignee", TaskQuery { assignee: Some("person 7".into()), ..some() }),
        ("no assignee", TaskQuery { assignee: Some(String::new()), ..some() }),
        ("due_before", TaskQuery { due_before: Some(at("2030-01-01T10:00:00Z")), ..some() }),
        ("due_after", TaskQuery { due_after: Some(at("2030-01-14T12:00:00Z")), ..some() }),
        ("created_after", TaskQuery { created_after: Some(at("2030-01-14T12:00:00Z")), ..some() }),
        ("q", TaskQuery { q: Some("needle".into()), ..some() }),
    ];
    for (name, filter) in filters {
        for sort in TaskSort::ALL {
            let key = match sort.order().kind {
                Kind::Rank => Key::Number(1),
                _ => Key::from(at("2030-01-07T00:00:00Z")),
            };
            for after in [None, Some((key, TaskId(Uuid::nil())))] {
                let what = format!(
                    "tasks by {name}, {sort:?}, {}",
                    if after.is_some() { "later page" } else { "first page" }
                );
                let mut query = explain();
                push_tasks_page(&mut query, &TaskQuery { sort, ..filter.clone() }, after, 20).unwrap();
                let read = served_by_an_index(&mut conn, query, &what).await;
                // Walking the sort's index passes rows that the filter drops: some, not the table.
                assert!(read <= ROWS / 2.0, "{what} read {read} rows for a page of 20");
            }
        }
    }
}

#[tokio::test]
async fn projects_comments_and_activity() {
    let mut conn = filled().await;
    let ids: (Uuid, Uuid, Uuid) = sqlx::query_as("SELECT md5('p7')::uuid, md5('t7')::uuid, md5('c8')::uuid")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    for sort in ProjectSort::ALL {
        for status in [None, Some(ProjectStatus::Archived), Some(ProjectStatus::Active)] {
            let mut query = explain();
            push_projects_page(&mut query, &ProjectQuery { status, sort, ..Default::default() }, None, 20)
                .unwrap();
            let read = served_by_an_index(&mut conn, query, &format!("projects {status:?} {sort:?}")).await;
            assert!(read <= 1_100.0, "projects {status:?} {sort:?} read {read} rows");
        }
    }

    let mut query = explain();
    let after = Some((Key::from(at("2030-01-07T00:00:00Z")), CommentId(Uuid::nil())));
    push_comments_page(&mut query, TaskId(ids.1), &CommentQuery::default(), after, 20).unwrap();
    assert!(served_by_an_index(&mut conn, query, "comments").await <= 40.0);

    let some = ActivityQuery::default;
    let filters = [
        ("none", some()),
        ("project", ActivityQuery { project: Some(ProjectId(ids.0)), ..some() }),
        ("task", ActivityQuery { task: Some(TaskId(ids.1)), ..some() }),
        ("comment", ActivityQuery { subject: Some(Subject::Comment(CommentId(ids.2))), ..some() }),
        ("actor", ActivityQuery { actor: Some("key 7".into()), ..some() }),
        ("after", ActivityQuery { after: Some(at("2030-01-10T00:00:00Z")), ..some() }),
    ];
    for (name, filter) in filters {
        for sort in [ActivitySort::Oldest, ActivitySort::Newest] {
            for after in [None, Some((Key::from(at("2030-01-07T00:00:00Z")), ActivityId(Uuid::nil())))] {
                let mut query = explain();
                push_activity_page(&mut query, &ActivityQuery { sort, ..filter.clone() }, after, 20).unwrap();
                let read =
                    served_by_an_index(&mut conn, query, &format!("activity by {name}, {sort:?}")).await;
                assert!(read <= 1_500.0, "activity by {name}, {sort:?} read {read} rows");
            }
        }
    }
}
