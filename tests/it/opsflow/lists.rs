//! Lists: every sort and filter against a plain model of the rows, pages that are complete while others write.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;

use freehold::kernel::Role;
use freehold::product::opsflow::tasks::{Task, TaskSort};
use http::StatusCode;
use serde_json::json;

use super::fixture::{Caller, Workspace, at};

const STATUSES: [&str; 5] = ["todo", "in_progress", "blocked", "done", "cancelled"];
const PRIORITIES: [&str; 4] = ["low", "normal", "high", "urgent"];
const PEOPLE: [&str; 3] = ["Ada", "Bob", "Cy & Co, 100%"];

/// Sixty tasks in two projects with many ties; gives them as the API shows them, and the first project.
async fn filled(workspace: &Workspace) -> (Caller, String, Vec<Task>) {
    let ada = workspace.caller("key_ada", Role::Admin);
    let projects = [ada.project("one").await, ada.project("two").await];
    let mut tasks = Vec::new();
    for n in 0..60_usize {
        workspace.set_time(at(&format!("2030-01-{:02}T00:00:00Z", 1 + n / 3)));
        let mut new = json!({
            "project_id": projects[n % 2],
            "title": format!("task {n} {}", if n % 7 == 0 { "deploying" } else { "writing" }),
            "description": if n % 5 == 0 { "with release notes" } else { "" },
            "status": STATUSES[n % 5],
            "priority": PRIORITIES[n % 4],
        });
        if n % 4 != 3 {
            new["assignee"] = json!(PEOPLE[n % 3]);
        }
        if n % 3 != 2 {
            new["due_at"] = json!(format!("2030-02-{:02}T12:00:00Z", 1 + n % 10));
        }
        let made = ada.post("/api/v1/tasks", new).await;
        made.expect(StatusCode::CREATED);
        tasks.push(serde_json::from_value::<Task>(made.body).unwrap());
    }
    // Some are changed later, so that updated_at differs from created_at.
    for n in [3, 30, 50] {
        workspace.set_time(at(&format!("2030-03-{n:02}T00:00:00Z").replace("50", "31")));
        let changed =
            ada.patch(&format!("/api/v1/tasks/{}", tasks[n].id), json!({"description": "notes"})).await;
        tasks[n] = serde_json::from_value(changed.body).unwrap();
    }
    // Three tasks share each moment, so that pages end within ties.
    let mut conn = workspace.owner_connection().await;
    let ties = "UPDATE tasks SET created_at = date_trunc('day', created_at + interval '1 second', 'UTC'), \
                updated_at = date_trunc('day', updated_at + interval '1 second', 'UTC')";
    sqlx::raw_sql(ties).execute(&mut conn).await.unwrap();
    for task in &mut tasks {
        let path = format!("/api/v1/tasks/{}", task.id);
        *task = serde_json::from_value(ada.get(&path).await.body).unwrap();
    }
    (ada, projects[0].clone(), tasks)
}

fn compare(sort: TaskSort, a: &Task, b: &Task) -> Ordering {
    let due = |task: &Task| (task.due_at.is_none(), task.due_at);
    let ascending = match sort {
        TaskSort::Created | TaskSort::CreatedDesc => a.created_at.cmp(&b.created_at),
        TaskSort::Updated | TaskSort::UpdatedDesc => a.updated_at.cmp(&b.updated_at),
        TaskSort::Due | TaskSort::DueDesc => due(a).cmp(&due(b)),
        TaskSort::Priority | TaskSort::PriorityDesc => a.priority.cmp(&b.priority),
    };
    let ascending = ascending.then(a.id.cmp(&b.id));
    if sort.order().descending { ascending.reverse() } else { ascending }
}

/// Walks all pages of a list.
async fn all_pages(caller: &Caller, path: &str, limit: u32) -> Vec<serde_json::Value> {
    let (mut rows, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let joint = if path.contains('?') { '&' } else { '?' };
        let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let page = caller.get(&format!("{path}{joint}limit={limit}{after}")).await;
        page.expect(StatusCode::OK);
        rows.extend(page.items());
        cursor = page.body["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return rows;
        }
    }
}

#[tokio::test]
async fn every_sort_and_filter_agrees_with_the_model() {
    let workspace = Workspace::new().await;
    let (ada, project, tasks) = filled(&workspace).await;
    let middle = at("2030-02-05T12:00:00Z");
    type Keep = Box<dyn Fn(&Task) -> bool>;
    let filters: Vec<(String, Keep)> = vec![
        (String::new(), Box::new(|_| true)),
        (format!("project={project}"), {
            let project = project.clone();
            Box::new(move |task| task.project_id.to_string() == project)
        }),
        ("status=todo".into(), Box::new(|task| task.status.as_str() == "todo")),
        ("status=done,blocked".into(), Box::new(|task| ["done", "blocked"].contains(&task.status.as_str()))),
        ("priority=urgent".into(), Box::new(|task| task.priority.as_str() == "urgent")),
        ("priority=low,high".into(), Box::new(|task| ["low", "high"].contains(&task.priority.as_str()))),
        ("assignee=Ada".into(), Box::new(|task| task.assignee.as_deref() == Some("Ada"))),
        (
            "assignee=Cy%20%26%20Co%2C%20100%25".into(),
            Box::new(|task| task.assignee.as_deref() == Some(PEOPLE[2])),
        ),
        ("assignee=".into(), Box::new(|task| task.assignee.is_none())),
        (
            "due_before=2030-02-05T12:00:00Z".into(),
            Box::new(move |task| task.due_at.is_some_and(|due| due < middle)),
        ),
        (
            "due_after=2030-02-05T12:00:00Z".into(),
            Box::new(move |task| task.due_at.is_some_and(|due| due > middle)),
        ),
        (
            "created_after=2030-01-10T00:00:00Z".into(),
            Box::new(|task| task.created_at > at("2030-01-10T00:00:00Z")),
        ),
        ("q=deploy".into(), Box::new(|task| task.title.contains("deploying"))),
        (
            "q=%22release%20notes%22%20-deploy".into(),
            Box::new(|task| task.description.contains("release notes") && !task.title.contains("deploying")),
        ),
        (
            format!("project={project}&status=todo,done&due_before=2030-02-05T12:00:00Z&q=writing"),
            Box::new(move |task| {
                task.project_id.to_string() == project
                    && ["todo", "done"].contains(&task.status.as_str())
                    && task.due_at.is_some_and(|due| due < middle)
                    && task.title.contains("writing")
            }),
        ),
    ];
    for (filter, keep) in &filters {
        let mut matched = 0;
        for sort in TaskSort::ALL {
            let mut expected: Vec<Task> = tasks.iter().filter(|task| keep(task)).cloned().collect();
            expected.sort_by(|a, b| compare(sort, a, b));
            let name = serde_json::to_value(sort).unwrap();
            let path = format!("/api/v1/tasks?{filter}&sort={}", name.as_str().unwrap());
            let rows = all_pages(&ada, &path, 7).await;
            let rows: Vec<Task> = rows.into_iter().map(|row| serde_json::from_value(row).unwrap()).collect();
            assert_eq!(
                rows.iter().map(|row| &row.title).collect::<Vec<_>>(),
                expected.iter().map(|row| &row.title).collect::<Vec<_>>(),
                "{path}"
            );
            assert_eq!(rows, expected, "{path}");
            matched = rows.len();
        }
        assert!(matched > 0, "{filter} matches nothing: the check would pass on nothing");
    }
}

#[tokio::test]
async fn projects_comments_and_activity_page_in_their_orders() {
    let workspace = Workspace::new().await;
    let ada = workspace.caller("key_ada", Role::Admin);
    let mut names = Vec::new();
    for n in 0..9 {
        workspace.set_time(at(&format!("2030-01-{:02}T00:00:00Z", 1 + n / 2)));
        let name = format!("p{}", 8 - n);
        ada.project(&name).await;
        names.push(name);
    }
    let named = |rows: Vec<serde_json::Value>| -> Vec<String> {
        rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(named(all_pages(&ada, "/api/v1/projects?sort=created_at", 2).await), names);
    assert_eq!(named(all_pages(&ada, "/api/v1/projects?sort=-updated_at", 4).await), {
        names.iter().rev().cloned().collect::<Vec<_>>()
    });
    names.sort();
    assert_eq!(named(all_pages(&ada, "/api/v1/projects?sort=name", 2).await), names);
    names.sort_by_key(|name| Reverse(name.clone()));
    assert_eq!(named(all_pages(&ada, "/api/v1/projects?sort=-name", 2).await), names);
    let first = ada.get("/api/v1/projects?limit=1").await.ids().remove(0);
    ada.patch(&format!("/api/v1/projects/{first}"), json!({"status": "archived"}))
        .await
        .expect(StatusCode::OK);
    assert_eq!(ada.get("/api/v1/projects?status=archived").await.ids(), [first]);
    assert_eq!(ada.get("/api/v1/projects?status=active").await.items().len(), 8);

    let project = ada.project("talk").await;
    let task = ada.task(&project, "talk").await;
    let comments = format!("/api/v1/tasks/{task}/comments");
    let mut said = Vec::new();
    for n in 0..7 {
        said.push(ada.post(&comments, json!({"body": format!("{n}")})).await.id());
    }
    let ids = |rows: Vec<serde_json::Value>| -> Vec<String> {
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(all_pages(&ada, &comments, 3).await), said);
    said.reverse();
    assert_eq!(ids(all_pages(&ada, &format!("{comments}?sort=-created_at"), 2).await), said);

    let everything = all_pages(&ada, "/api/v1/activity", 4).await;
    assert_eq!(everything.len(), 9 + 1 + 2 + 7);
    let oldest_first = all_pages(&ada, "/api/v1/activity?sort=at", 5).await;
    assert!(oldest_first.iter().rev().eq(everything.iter()));
    let bob = workspace.caller("key_bob", Role::Member);
    let word = bob.post(&comments, json!({"body": "me too"})).await.id();
    for (filter, rows) in [
        (format!("subject={word}"), 1),
        (format!("subject={task}"), 9),
        (format!("task={task}"), 9),
        (format!("subject={project}"), 10),
        (format!("project={project}&actor=key_bob"), 1),
        ("actor=key_bob".to_owned(), 1),
        ("after=2030-01-04T12:00:00Z".to_owned(), 12),
        ("after=2030-01-05T12:00:00Z".to_owned(), 0),
    ] {
        assert_eq!(all_pages(&ada, &format!("/api/v1/activity?{filter}"), 2).await.len(), rows, "{filter}");
    }
}

/// Rows that were there before the walk began are each seen exactly once, whatever comes and goes meanwhile.
#[tokio::test]
async fn a_walk_is_complete_while_others_write() {
    let workspace = Workspace::new().await;
    let (ada, project, tasks) = filled(&workspace).await;
    for sort in TaskSort::ALL {
        let name = serde_json::to_value(sort).unwrap();
        let path = format!("/api/v1/tasks?sort={}", name.as_str().unwrap());
        let writing = async {
            for n in 0..20 {
                let new = json!({"project_id": project, "title": format!("new {n}"), "priority": PRIORITIES[n % 4],
                    "due_at": format!("2030-02-{:02}T12:00:00Z", 1 + n % 10)});
                let id = ada.post("/api/v1/tasks", new).await.id();
                if n % 2 == 0 {
                    ada.send(http::Method::DELETE, &format!("/api/v1/tasks/{id}"), None).await;
                }
            }
        };
        let (rows, ()) = tokio::join!(all_pages(&ada, &path, 3), writing);
        let seen: Vec<&str> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
        let once: BTreeSet<&str> = seen.iter().copied().collect();
        assert_eq!(seen.len(), once.len(), "{path}: a row came twice");
        for task in &tasks {
            assert!(once.contains(task.id.to_string().as_str()), "{path}: {} was skipped", task.title);
        }
    }
}

#[tokio::test]
async fn a_cursor_is_refused_by_another_list_or_sort() {
    let workspace = Workspace::new().await;
    let (ada, project, tasks) = filled(&workspace).await;
    let page = ada.get("/api/v1/tasks?sort=due_at&limit=1").await;
    let cursor = page.body["next_cursor"].as_str().unwrap();
    ada.get(&format!("/api/v1/tasks?sort=due_at&cursor={cursor}")).await.expect(StatusCode::OK);
    for other in [
        "tasks?".to_owned(),
        "tasks?sort=-due_at".to_owned(),
        "tasks?sort=created_at".to_owned(),
        "projects?sort=created_at".to_owned(),
        "activity?sort=at".to_owned(),
        format!("tasks/{}/comments?", tasks[0].id),
        format!("tasks?project={project}"),
    ] {
        let answer = ada.get(&format!("/api/v1/{other}&cursor={cursor}")).await;
        answer.problem(StatusCode::BAD_REQUEST, "bad_cursor");
    }
}
