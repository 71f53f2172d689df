//! What happened in this workspace: its own lines of the audit log, and no others.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures_util::stream::try_unfold;
use http::{HeaderValue, header};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;

use super::caller;
use crate::control_plane::audit::{AuditLine, audit_add};
use crate::control_plane::audit_own::{OwnAuditFilter, own_audit_list, own_audit_page};
use crate::data_plane::As;
use crate::data_plane::context::Admin;
use crate::http::vocabulary::{Json, Query};
use crate::identity::Identity;
use crate::kernel::page::{self, Page};
use crate::kernel::{Error, Result};
use crate::operations;

/// Lines that are read at a time for an export.
const AT_A_TIME: u32 = 500;

pub fn routes() -> OpenApiRouter<Identity> {
    operations!(OpenApiRouter::new(), list, export)
}

/// List the audit log
#[utoipa::path(get, path = "/api/v1/audit", operation_id = "list_audit", tag = "audit", params(OwnAuditFilter),
    responses((status = 200, description = "Lines, newest first.", body = Page<AuditLine>)))]
async fn list(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Query(filter): Query<OwnAuditFilter>,
) -> Result<Json<Page<AuditLine>>> {
    let mut conn = identity.cp.db.acquire().await?;
    Ok(Json(own_audit_list(&mut conn, ctx.tenant_id, &filter).await?))
}

/// Export the audit log
///
/// As CSV, newest first, all lines of the filter (`limit` and `cursor` say nothing here). The export is itself a line of
/// the log.
#[utoipa::path(get, path = "/api/v1/audit/export", operation_id = "export_audit", tag = "audit",
    params(OwnAuditFilter),
    responses((status = 200, description = "All lines.", body = String, content_type = "text/csv")))]
async fn export(
    ctx: As<Admin>,
    State(identity): State<Identity>,
    Query(filter): Query<OwnAuditFilter>,
) -> Result<Response> {
    let what = filter.what()?;
    let (tenant, now) = (ctx.tenant_id, identity.cp.clock.now());
    let mut tx = identity.cp.db.begin().await?;
    let detail = json!({ "filter": filter });
    audit_add(&mut tx, &caller(&ctx), now, "audit.export", Some(tenant), &tenant.to_string(), detail).await?;
    tx.commit().await?;
    let head = "id,at,actor,action,subject,detail,request_id\r\n".to_owned();
    let lines = try_unfold((Some(None), Some(head), what), move |(next, head, what)| {
        let db = identity.cp.db.clone();
        async move {
            let Some(after) = next else { return Ok::<_, Error>(None) };
            let mut conn = db.acquire().await?;
            let found = own_audit_page(&mut conn, tenant, &what, after, AT_A_TIME).await?;
            let mut text = head.unwrap_or_default();
            found.items.iter().for_each(|line| row(line, &mut text));
            let next = found.next_cursor.as_deref().map(page::decode).transpose()?.map(Some);
            Ok(Some((text, (next, None, what))))
        }
    });
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
    let file = HeaderValue::from_static("attachment; filename=\"audit.csv\"");
    headers.insert(header::CONTENT_DISPOSITION, file);
    Ok(response)
}

fn row(line: &AuditLine, into: &mut String) {
    let (id, at, detail) = (line.id.to_string(), line.at.to_rfc3339(), line.detail.to_string());
    let request = line.request_id.as_deref().unwrap_or_default();
    let cells = [&id, &at, &line.actor, &line.action, &line.subject, &detail, request];
    for (at, text) in cells.into_iter().enumerate() {
        if at > 0 {
            into.push(',');
        }
        cell(text, into);
    }
    into.push_str("\r\n");
}

/// Always quoted. What a spreadsheet would take for a formula begins with an apostrophe.
fn cell(text: &str, into: &mut String) {
    into.push('"');
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        into.push('\'');
    }
    into.push_str(&text.replace('"', "\"\""));
    into.push('"');
}

#[cfg(test)]
mod tests {
    use super::cell;

    #[test]
    fn a_cell_is_text_and_no_formula() {
        for (text, wanted) in [
            ("plain", "\"plain\""),
            ("a,b\nc", "\"a,b\nc\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=HYPERLINK(1)", "\"'=HYPERLINK(1)\""),
            ("@sum", "\"'@sum\""),
        ] {
            let mut row = String::new();
            cell(text, &mut row);
            assert_eq!(row, wanted);
        }
    }
}
