//! The log as a file: JSON lines, or CSV for spreadsheets. Written while it is read, so that its length costs no memory.

use std::str::FromStr;

use futures_util::stream::{Stream, try_unfold};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::list::{What, audit_is_longer, audit_page};
use super::{AuditLine, Caller, audit_write};
use crate::control_plane::ControlPlane;
use crate::kernel::ids::TenantId;
use crate::kernel::page;
use crate::kernel::{Error, Result};

/// Most lines of one export.
const MOST: i64 = 1_000_000;
/// Lines that are read at a time.
const AT_A_TIME: u32 = 500;

/// What the file is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For spreadsheets.
    #[default]
    Csv,
    /// For programs: one JSON value a line.
    Jsonl,
}

impl Format {
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8",
            Self::Jsonl => "application/x-ndjson",
        }
    }

    /// For `Content-Disposition`.
    pub const fn disposition(self) -> &'static str {
        match self {
            Self::Csv => "attachment; filename=\"audit.csv\"",
            Self::Jsonl => "attachment; filename=\"audit.jsonl\"",
        }
    }

    fn head(self) -> String {
        match self {
            Self::Csv => "id,at,actor,action,subject,detail,request_id,seq,hash\r\n".to_owned(),
            Self::Jsonl => String::new(),
        }
    }

    fn write(self, line: &AuditLine, into: &mut String) -> Result<()> {
        match self {
            Self::Csv => row(line, into),
            Self::Jsonl => {
                into.push_str(&serde_json::to_string(line).map_err(Error::internal)?);
                into.push('\n');
            }
        }
        Ok(())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "csv" => Ok(Self::Csv),
            "jsonl" => Ok(Self::Jsonl),
            _ => Err(Error::field("format", "is csv or jsonl")),
        }
    }
}

/// Notes the export in the log, and gives all lines up to that note, newest first, in pieces of the file.
///
/// # Errors
/// `invalid_fields` for more than a million lines.
pub async fn audit_export(
    cp: &ControlPlane,
    caller: &Caller,
    tenant: Option<TenantId>,
    what: What,
    format: Format,
) -> Result<impl Stream<Item = Result<String>> + Send + use<>> {
    let mut tx = cp.db.begin().await?;
    if audit_is_longer(&mut tx, tenant, &what, MOST).await? {
        return Err(Error::field("since", format!("more than {MOST} lines are meant: narrow the time")));
    }
    let subject = tenant.map_or_else(|| "audit".to_owned(), |tenant| tenant.to_string());
    let detail = json!({ "filter": what });
    let note = audit_write(&mut tx, caller, cp.clock.now(), "audit.export", tenant, &subject, detail).await?;
    tx.commit().await?;
    let state = (Some(note), Some(format.head()), cp.db.clone(), what);
    Ok(try_unfold(state, move |(after, head, db, what)| async move {
        let Some(after) = after else { return Ok::<_, Error>(None) };
        let mut conn = db.acquire().await?;
        let found = audit_page(&mut conn, tenant, &what, Some(after), AT_A_TIME).await?;
        drop(conn);
        let mut text = head.unwrap_or_default();
        for line in &found.items {
            format.write(line, &mut text)?;
        }
        let next = found.next_cursor.as_deref().map(page::decode).transpose()?;
        Ok(Some((text, (next, None, db, what))))
    }))
}

fn row(line: &AuditLine, into: &mut String) {
    let (id, at, detail) = (line.id.to_string(), line.at.to_rfc3339(), line.detail.to_string());
    let seq = line.seq.map(|seq| seq.to_string()).unwrap_or_default();
    let (request, hash) =
        (line.request_id.as_deref().unwrap_or_default(), line.hash.as_deref().unwrap_or_default());
    let cells = [&id, &at, &line.actor, &line.action, &line.subject, &detail, request, &seq, hash];
    for (at, text) in cells.into_iter().enumerate() {
        if at > 0 {
            into.push(',');
        }
        cell(text, into);
    }
    into.push_str("\r\n");
}

/// What spreadsheets take for the beginning of a formula, in all the widths that they know.
const FORMULA: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

/// Always quoted. What a spreadsheet would take for a formula begins with an apostrophe.
fn cell(text: &str, into: &mut String) {
    into.push('"');
    if text.trim_start_matches(' ').starts_with(FORMULA) {
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
            ("  =1+1", "\"'  =1+1\""),
            ("@sum", "\"'@sum\""),
            ("\u{ff1d}1", "\"'\u{ff1d}1\""),
            ("{\"a\":\"=1\"}", "\"{\"\"a\"\":\"\"=1\"\"}\""),
        ] {
            let mut row = String::new();
            cell(text, &mut row);
            assert_eq!(row, wanted);
        }
    }
}
