//! OpsFlow in a browser: projects, and the tasks of one. The same services as the API's.

use askama::Template;
use axum::extract::Form;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, response::IntoResponse};
use serde::Deserialize;

use super::projects::model::{NewProject, Project, ProjectQuery, ProjectSort};
use super::tasks::model::{NewTask, Task, TaskPatch};
use super::tasks::query::TaskQuery;
use super::words::{Priority, ProjectId, TaskId, TaskStatus};
use super::{projects, tasks};
use crate::data_plane::context::{Manager, Member, Viewer};
use crate::http::pages::workspace::{Chrome, Here};
use crate::http::pages::{Frame, page, see_other};
use crate::http::vocabulary::{Path, validate};
use crate::kernel::Result;

/// Rows on a page.
const MOST: u32 = 100;

pub fn routes() -> Router {
    Router::new()
        .route("/projects", get(list).post(create))
        .route("/projects/{project}", get(show))
        .route("/projects/{project}/tasks", post(add_task))
        .route("/tasks/{task}/status", post(set_status))
}

#[derive(Template)]
#[template(path = "opsflow/projects.html")]
struct ProjectsPage {
    frame: Frame,
    chrome: Chrome,
    projects: Vec<Project>,
}

async fn list(here: Here<Viewer>) -> Result<Response> {
    let query = ProjectQuery { sort: ProjectSort::Name, limit: Some(MOST), ..ProjectQuery::default() };
    let projects = projects::service::list(&here, query).await?.items;
    Ok(page(&ProjectsPage { frame: here.chrome.frame, chrome: here.chrome, projects }))
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

async fn create(here: Here<Manager>, Form(form): Form<Named>) -> Result<Response> {
    let new = NewProject { name: form.name.trim().to_owned(), description: String::new() };
    validate(&new)?;
    projects::service::create(&here, new).await?;
    Ok(see_other("/projects"))
}

#[derive(Template)]
#[template(path = "opsflow/project.html")]
struct ProjectPage {
    frame: Frame,
    chrome: Chrome,
    project: Project,
    tasks: Vec<Row>,
    more: bool,
    statuses: Vec<(&'static str, &'static str)>,
}

/// A task as the table shows it.
struct Row {
    id: TaskId,
    title: String,
    assignee: String,
    status: &'static str,
    done: bool,
}

impl From<Task> for Row {
    fn from(task: Task) -> Self {
        Self {
            id: task.id,
            title: task.title,
            assignee: task.assignee.unwrap_or_default(),
            status: task.status.as_str(),
            done: task.status == TaskStatus::Done,
        }
    }
}

async fn show(here: Here<Viewer>, Path(id): Path<ProjectId>) -> Result<Response> {
    let project = projects::service::get(&here, id).await?;
    let query = TaskQuery { project: Some(id), limit: Some(MOST), ..TaskQuery::default() };
    let found = tasks::service::list(&here, query).await?;
    Ok(page(&ProjectPage {
        frame: here.chrome.frame,
        chrome: here.chrome,
        project,
        more: found.next_cursor.is_some(),
        tasks: found.items.into_iter().map(Row::from).collect(),
        statuses: TaskStatus::ALL.iter().map(|status| (status.as_str(), words(*status))).collect(),
    }))
}

fn words(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Todo => "To do",
        TaskStatus::InProgress => "In progress",
        TaskStatus::Blocked => "Blocked",
        TaskStatus::Done => "Done",
        TaskStatus::Cancelled => "Cancelled",
    }
}

#[derive(Deserialize)]
struct Titled {
    title: String,
}

async fn add_task(
    here: Here<Member>,
    Path(project): Path<ProjectId>,
    Form(form): Form<Titled>,
) -> Result<Response> {
    let new = NewTask {
        project_id: project,
        title: form.title.trim().to_owned(),
        description: String::new(),
        status: TaskStatus::Todo,
        priority: Priority::Normal,
        assignee: None,
        due_at: None,
    };
    validate(&new)?;
    tasks::service::create(&here, new).await?;
    Ok(see_other(&format!("/projects/{project}")))
}

#[derive(Deserialize)]
struct Status {
    status: TaskStatus,
    project: ProjectId,
}

async fn set_status(
    here: Here<Member>,
    Path(task): Path<TaskId>,
    Form(form): Form<Status>,
) -> Result<Response> {
    let patch = TaskPatch { status: Some(form.status), ..TaskPatch::default() };
    tasks::service::update(&here, task, None, patch).await?;
    Ok(see_other(&format!("/projects/{}", form.project)).into_response())
}
