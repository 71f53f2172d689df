//! The product of `docs/ADOPTING.md`, compiled: what the page shows is what stands here. It also proves that a second
//! product needs nothing that OpsFlow has for itself.

use std::time::Duration;

use chrono::{DateTime, Utc};
use freehold::data_plane::context::{Member, Viewer};
use freehold::data_plane::idempotency::Answer;
use freehold::data_plane::{As, RegularJob, TenantContext};
use freehold::http::vocabulary::{Json, Path, Query};
use freehold::kernel::page::{self, Page};
use freehold::kernel::{Error, Result, codes};
use freehold::product::Product;
use freehold::{define_id, operations};
use garde::Validate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::migrate::Migrator;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

static MIGRATIONS: Migrator = sqlx::migrate!("./tenant-migrations");

/// A team's notes.
pub struct Notes;

impl Product for Notes {
    const NAME: &'static str = "Notes";
    const REGULAR_JOBS: &'static [RegularJob] = &[FORGET];

    fn migrations() -> &'static Migrator {
        &MIGRATIONS
    }

    fn routes() -> OpenApiRouter {
        operations!(OpenApiRouter::new(), create, list, get)
    }

    async fn demo(tenant: &TenantContext) -> Result<()> {
        demo(tenant).await
    }

    async fn forget_person(_: &TenantContext, _: &str) -> Result<()> {
        // A note keeps its author's id and no name.
        Ok(())
    }

    async fn job(tenant: &TenantContext, kind: &str, _: &Value) -> Result<()> {
        if kind == FORGET.kind { forget(tenant).await } else { Err(Error::internal(kind.to_owned())) }
    }
}

define_id!(NoteId, "nte", "A note.");

#[derive(Serialize, ToSchema, sqlx::FromRow)]
pub struct Note {
    id: NoteId,
    text: String,
    author: String,
    created_at: DateTime<Utc>,
}

#[derive(Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewNote {
    #[garde(length(chars, min = 1, max = 2000))]
    text: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NoteQuery {
    cursor: Option<String>,
    limit: Option<u32>,
}

/// Write a note
#[utoipa::path(post, path = "/api/v1/notes", operation_id = "create_note", tag = "notes",
    request_body = NewNote, responses((status = 201, description = "The note.", body = Note)))]
pub async fn create(ctx: As<Member>, Json(new): Json<NewNote>) -> Result<Answer> {
    let (id, author, now) = (NoteId::new(), ctx.actor.id.clone(), ctx.clock.now());
    ctx.write_once(async move |conn| {
        let note: Note = sqlx::query_as(
            "INSERT INTO notes (id, text, author, created_at) VALUES ($1, $2, $3, $4)
             RETURNING id, text, author, created_at",
        )
        .bind(id)
        .bind(&new.text)
        .bind(author)
        .bind(now)
        .fetch_one(conn)
        .await?;
        Answer::created(format!("/api/v1/notes/{id}"), 1, &note)
    })
    .await
}

/// List notes, newest first
#[utoipa::path(get, path = "/api/v1/notes", operation_id = "list_notes", tag = "notes",
    params(NoteQuery), responses((status = 200, description = "A page of notes.", body = Page<Note>)))]
pub async fn list(ctx: As<Viewer>, Query(query): Query<NoteQuery>) -> Result<Json<Page<Note>>> {
    let limit = page::limit(query.limit)?;
    let after: Option<NoteId> = query.cursor.as_deref().map(page::decode).transpose()?;
    let rows: Vec<Note> = ctx
        .read(async move |conn| {
            Ok(sqlx::query_as(
                "SELECT id, text, author, created_at FROM notes
                  WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2",
            )
            .bind(after)
            .bind(i64::from(limit) + 1)
            .fetch_all(conn)
            .await?)
        })
        .await?;
    Ok(Json(Page::build(rows, limit, |note: &Note| note.id)))
}

/// Read a note
#[utoipa::path(get, path = "/api/v1/notes/{id}", operation_id = "get_note", tag = "notes",
    params(("id" = NoteId, Path, description = "The note.")),
    responses((status = 200, description = "The note.", body = Note)))]
pub async fn get(ctx: As<Viewer>, Path(id): Path<NoteId>) -> Result<Json<Note>> {
    let note: Option<Note> = ctx
        .read(async move |conn| {
            Ok(sqlx::query_as("SELECT id, text, author, created_at FROM notes WHERE id = $1")
                .bind(id)
                .fetch_optional(conn)
                .await?)
        })
        .await?;
    note.map(Json).ok_or_else(|| Error::new(&codes::NOT_FOUND))
}

const FORGET: RegularJob = RegularJob { kind: "notes_forget", every: Duration::from_secs(24 * 3600) };

async fn forget(tenant: &TenantContext) -> Result<()> {
    let before = tenant.clock.now() - chrono::Duration::days(365);
    tenant
        .write(async move |conn| {
            sqlx::query("DELETE FROM notes WHERE created_at < $1").bind(before).execute(conn).await?;
            Ok(())
        })
        .await
}

async fn demo(tenant: &TenantContext) -> Result<()> {
    let now = tenant.clock.now();
    tenant
        .write(async move |conn| {
            sqlx::query(
                "INSERT INTO notes (id, text, author, created_at)
                 SELECT $1, 'Welcome', 'demo', $2 WHERE NOT EXISTS (SELECT 1 FROM notes)",
            )
            .bind(NoteId::new())
            .bind(now)
            .execute(conn)
            .await?;
            Ok(())
        })
        .await
}

#[test]
fn the_sample_s_document_says_who_may_what() {
    let document = serde_json::to_value(Notes::routes().into_openapi()).unwrap();
    let role = |method: &str| document["paths"]["/api/v1/notes"][method]["x-min-role"].clone();
    assert_eq!((role("get"), role("post")), ("viewer".into(), "member".into()));
    assert!(document["paths"]["/api/v1/notes/{id}"]["get"]["responses"]["404"].is_object());
}
