//! What happened in a workspace, and who of the provider's staff looked in.

use std::collections::HashMap;

use askama::Template;
use axum::Router;
use axum::extract::{Form, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use chrono::{DateTime, NaiveDate, Utc};
use serde::Deserialize;

use super::account::moment;
use super::workspace::{Chrome, Here};
use super::{Frame, page};
use crate::control_plane::audit::AuditLine;
use crate::control_plane::audit::list::{OwnAuditFilter, own_audit_list};
use crate::data_plane::context::{Admin, Owner};
use crate::http::browser::{see_other, with_query};
use crate::http::workspace::caller;
use crate::identity::Identity;
use crate::identity::accounts::names_of;
use crate::identity::support::{OwnSupportFilter, SupportSession, own_support_list, support_end};
use crate::kernel::ids::{AccountId, SupportId};
use crate::kernel::{Error, Result, Role};

/// Lines on a page.
const LINES: u32 = 50;
/// Support sessions on the page.
const SESSIONS: u32 = 20;

pub fn routes(identity: Identity) -> Router {
    Router::new().route("/audit", get(show)).route("/audit/support/end", post(end)).with_state(identity)
}

/// The filter form, as it is sent: what is left empty is not asked for.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    action: String,
    actor: String,
    target: String,
    /// Days, the last one included.
    from: String,
    to: String,
    cursor: String,
}

impl Wanted {
    fn filter(&self) -> Result<OwnAuditFilter> {
        let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        Ok(OwnAuditFilter {
            action: text(&self.action),
            actor: text(&self.actor),
            subject: text(&self.target),
            since: day("from", &self.from, 0)?,
            until: day("to", &self.to, 1)?,
            format: None,
            limit: Some(LINES),
            cursor: text(&self.cursor),
        })
    }

    /// The same filter in another address.
    fn at(&self, path: &str, filter: &OwnAuditFilter, more: (&str, &str)) -> String {
        let mut pairs: Vec<(&str, String)> = Vec::new();
        if path == "/audit" {
            let own = [("action", &self.action), ("actor", &self.actor), ("target", &self.target)];
            let days = [("from", &self.from), ("to", &self.to)];
            pairs.extend(own.into_iter().chain(days).map(|(name, value)| (name, value.clone())));
        } else {
            let time = |at: Option<DateTime<Utc>>| {
                at.map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
            };
            let all = [
                ("action", filter.action.clone()),
                ("actor", filter.actor.clone()),
                ("subject", filter.subject.clone()),
                ("since", time(filter.since)),
                ("until", time(filter.until)),
            ];
            pairs.extend(all.into_iter().filter_map(|(name, value)| Some((name, value?))));
        }
        pairs.push((more.0, more.1.to_owned()));
        let pairs: Vec<(&str, &str)> = pairs
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        with_query(path, &pairs)
    }
}

/// The beginning of a day in UTC, or of one some days later.
fn day(field: &str, text: &str, later: i64) -> Result<Option<DateTime<Utc>>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let day: Option<NaiveDate> = text.trim().parse().ok();
    let day = day.and_then(|day| day.checked_add_signed(chrono::TimeDelta::days(later)));
    let at = day.and_then(|day| day.and_hms_opt(0, 0, 0)).map(|at| at.and_utc());
    at.map(Some).ok_or_else(|| Error::field(field, "is a day, as in 2026-11-21"))
}

/// A line as people read it.
struct Line {
    at: String,
    who: String,
    action: String,
    target: String,
    detail: String,
    id: String,
}

/// Somebody's name with what they are known by, or that alone.
fn named(names: &HashMap<String, String>, id: &str) -> String {
    names.get(id).cloned().unwrap_or_else(|| id.to_owned())
}

fn shown(line: AuditLine, names: &HashMap<String, String>) -> Line {
    let text = |value: &serde_json::Value| match value.as_str() {
        Some(text) => named(names, text),
        None => value.to_string(),
    };
    let detail: Vec<String> = line
        .detail
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| format!("{}: {}", name.replace('_', " "), text(value)))
        .collect();
    // Staff act under a key or an id of their own; the tenant is told a name.
    let who = match line.detail["operator"].as_str().filter(|_| line.actor.starts_with("operator:")) {
        Some(operator) => format!("{operator} (support)"),
        None => named(names, &line.actor),
    };
    Line {
        at: moment(line.at),
        who,
        target: named(names, &line.subject),
        action: line.action,
        detail: detail.join(", "),
        id: line.id.to_string(),
    }
}

#[derive(Template)]
#[template(path = "pages/audit.html")]
struct Page {
    frame: Frame,
    chrome: Chrome,
    wanted: Wanted,
    lines: Vec<Line>,
    older: Option<String>,
    csv: String,
    jsonl: String,
    sessions: Vec<Look>,
    /// Whether the visitor may end a session.
    ends: bool,
}

/// A support session as the page shows it.
struct Look {
    session: SupportSession,
    from: String,
    until: String,
    live: bool,
}

async fn show(
    here: Here<Admin>,
    State(identity): State<Identity>,
    Query(wanted): Query<Wanted>,
) -> Result<Response> {
    let (filter, now) = (wanted.filter()?, identity.cp.clock.now());
    let mut conn = identity.cp.db.acquire().await?;
    let found = own_audit_list(&mut conn, here.tenant_id, &filter).await?;
    let people = found.items.iter().flat_map(|line| [line.actor.parse(), line.subject.parse()]);
    let people: Vec<AccountId> = people.filter_map(Result::ok).collect();
    let names = names_of(&mut conn, &people).await?;
    let looks = OwnSupportFilter { live: None, limit: Some(SESSIONS), cursor: None };
    let looks = own_support_list(&mut conn, here.tenant_id, &looks, now).await?.items;
    let look = |session: SupportSession| Look {
        from: moment(session.created_at),
        until: moment(session.ended_at.unwrap_or(session.expires_at)),
        live: session.ended_at.is_none() && session.expires_at > now,
        session,
    };
    let export = "/api/v1/audit/export";
    Ok(page(&Page {
        older: found.next_cursor.as_deref().map(|next| wanted.at("/audit", &filter, ("cursor", next))),
        csv: wanted.at(export, &filter, ("format", "csv")),
        jsonl: wanted.at(export, &filter, ("format", "jsonl")),
        lines: found.items.into_iter().map(|line| shown(line, &names)).collect(),
        sessions: looks.into_iter().map(look).collect(),
        ends: here.actor.role >= Role::Owner,
        frame: here.chrome.frame,
        chrome: here.chrome,
        wanted,
    }))
}

#[derive(Deserialize)]
struct Which {
    session: SupportId,
}

async fn end(
    here: Here<Owner>,
    State(identity): State<Identity>,
    Form(which): Form<Which>,
) -> Result<Response> {
    support_end(&identity.cp, &caller(&here), Some(here.tenant_id), which.session).await?;
    Ok(see_other("/audit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_nonsense_is_refused() {
        let from = |text| day("from", text, 0).map(|at| at.map(|at| at.to_rfc3339()));
        assert_eq!(from("").unwrap(), None);
        assert_eq!(from("2026-11-21").unwrap().unwrap(), "2026-11-21T00:00:00+00:00");
        assert_eq!(day("to", "2026-11-21", 1).unwrap().unwrap().to_rfc3339(), "2026-11-22T00:00:00+00:00");
        assert!(from("yesterday").is_err());
    }

    #[test]
    fn a_download_has_the_page_s_filter() {
        let wanted = Wanted { action: "member.".into(), to: "2026-11-21".into(), ..Wanted::default() };
        let filter = wanted.filter().unwrap();
        assert_eq!(
            wanted.at("/api/v1/audit/export", &filter, ("format", "csv")),
            "/api/v1/audit/export?action=member.&until=2026-11-22T00%3A00%3A00Z&format=csv"
        );
        assert_eq!(
            wanted.at("/audit", &filter, ("cursor", "x")),
            "/audit?action=member.&to=2026-11-21&cursor=x"
        );
    }
}
