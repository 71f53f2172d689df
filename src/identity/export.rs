//! All that is kept about a person, as one JSON document, for them. Read and sent a few hundred rows at a time, however much
//! it is. What a workspace's own tables hold is the workspace's, and comes with its export.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::Identity;
use super::arrive::Here;
use super::sessions::session_is_fresh;
use super::throttle::{self, Rate};
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::ids::AccountId;
use crate::kernel::{Error, Result};

/// Exports that one account may ask for.
const EXPORTS: Rate = Rate { every: TimeDelta::minutes(20), burst: 3 };
/// Rows that are read at a time.
const AT_A_TIME: i64 = 500;

/// A part of the document: its name, and a statement over the account (`$1` as an id, `$2` as it is written in texts),
/// the last key before (`$3`), and the number of rows (`$4`). Each row is a key and an object. A part without keys is short.
struct Part {
    name: &'static str,
    rows: &'static str,
}

/// Nothing in them lets anybody in: hashes and sealed secrets stay here.
static PARTS: [Part; 9] = [
    Part {
        name: "account",
        rows: "SELECT NULL::uuid, jsonb_build_object('name', name, 'email', email, 'email_verified', email_verified,
                      'locale', locale, 'second_factor_since', totp_since, 'created_at', created_at,
                      'updated_at', updated_at, 'written_as', $2::text)
                 FROM account WHERE id = $1 AND $3::uuid IS NULL LIMIT $4",
    },
    Part {
        name: "ways_to_sign_in",
        rows: "SELECT NULL::uuid, jsonb_build_object('issuer', issuer, 'subject', subject, 'provider', provider,
                      'email', email, 'email_verified', email_verified, 'linked_at', linked_at,
                      'last_used_at', last_used_at)
                 FROM account_identity WHERE account = $1 AND $2::text IS NOT NULL AND $3::uuid IS NULL
                ORDER BY linked_at, issuer, subject LIMIT $4",
    },
    Part {
        name: "password",
        rows: "SELECT NULL::uuid, jsonb_build_object('email', email, 'updated_at', updated_at)
                 FROM account_password WHERE account = $1 AND $2::text IS NOT NULL AND $3::uuid IS NULL LIMIT $4",
    },
    Part {
        name: "sessions",
        rows: "SELECT id, jsonb_build_object('kind', kind, 'method', method,
                      'workspace', (SELECT slug FROM tenant WHERE tenant.id = session.tenant),
                      'second_factor', second_factor, 'user_agent', user_agent, 'address', address,
                      'authenticated_at', authenticated_at, 'created_at', created_at, 'last_seen_at', last_seen_at,
                      'expires_at', expires_at, 'revoked_at', revoked_at)
                 FROM session WHERE account = $1 AND $2::text IS NOT NULL AND ($3::uuid IS NULL OR id > $3)
                ORDER BY id LIMIT $4",
    },
    Part {
        name: "memberships",
        rows: "SELECT m.tenant, jsonb_build_object('workspace', t.slug, 'name', t.name, 'role', m.role,
                      'joined_at', m.joined_at)
                 FROM membership m JOIN tenant t ON t.id = m.tenant
                WHERE m.account = $1 AND $2::text IS NOT NULL AND ($3::uuid IS NULL OR m.tenant > $3)
                ORDER BY m.tenant LIMIT $4",
    },
    Part {
        name: "invitations_sent",
        rows: "SELECT i.id, jsonb_build_object('workspace', t.slug, 'email', i.email, 'role', i.role,
                      'created_at', i.created_at, 'expires_at', i.expires_at, 'accepted_at', i.accepted_at,
                      'revoked_at', i.revoked_at)
                 FROM invitation i JOIN tenant t ON t.id = i.tenant
                WHERE i.invited_by = $1 AND $2::text IS NOT NULL AND ($3::uuid IS NULL OR i.id > $3)
                ORDER BY i.id LIMIT $4",
    },
    Part {
        name: "invitations_received",
        rows: "SELECT i.id, jsonb_build_object('workspace', t.slug, 'email', i.email, 'role', i.role,
                      'created_at', i.created_at, 'expires_at', i.expires_at, 'accepted_at', i.accepted_at,
                      'revoked_at', i.revoked_at)
                 FROM invitation i JOIN tenant t ON t.id = i.tenant
                WHERE (i.accepted_by = $1
                       OR i.email IN (SELECT lower(email) FROM account WHERE id = $1 AND email_verified
                                      UNION SELECT lower(email) FROM account_identity
                                             WHERE account = $1 AND email_verified
                                      UNION SELECT email FROM account_password WHERE account = $1))
                  AND $2::text IS NOT NULL AND ($3::uuid IS NULL OR i.id > $3)
                ORDER BY i.id LIMIT $4",
    },
    Part {
        name: "api_keys",
        rows: "SELECT k.id, jsonb_build_object('workspace', t.slug, 'name', k.name, 'role', k.role, 'scopes', k.scopes,
                      'tail', k.tail, 'created_at', k.created_at, 'expires_at', k.expires_at,
                      'revoked_at', k.revoked_at, 'last_used_at', k.last_used_at)
                 FROM api_key k JOIN tenant t ON t.id = k.tenant
                WHERE k.created_by = $1 AND $2::text IS NOT NULL AND ($3::uuid IS NULL OR k.id > $3)
                ORDER BY k.id LIMIT $4",
    },
    Part {
        name: "audit",
        rows: "SELECT id, jsonb_build_object('at', at, 'action', action, 'subject', subject,
                      'detail', detail || coalesce((SELECT data FROM audit_personal p WHERE p.line = audit.id), '{}'),
                      'workspace', (SELECT slug FROM tenant WHERE tenant.id = audit.tenant),
                      'request_id', request_id)
                 FROM audit WHERE $1::uuid IS NOT NULL AND actor = $2 AND ($3::uuid IS NULL OR id > $3)
                ORDER BY id LIMIT $4",
    },
];

/// Where the writing of a document stands.
pub struct Export {
    account: AccountId,
    part: usize,
    after: Option<Uuid>,
    /// Whether the part's first row is still to come.
    fresh: bool,
    /// When it was asked for, until that is written.
    begun: Option<DateTime<Utc>>,
}

impl Identity {
    /// Begins an export.
    ///
    /// # Errors
    /// `confirm_required` without a fresh sign-in; `rate_limited`.
    pub async fn account_export(&self, caller: &Caller, here: Here) -> Result<Export> {
        let now = self.cp.clock.now();
        let mut conn = self.cp.db.acquire().await?;
        session_is_fresh(&mut conn, here.account, here.session, now).await?;
        throttle::take(&mut conn, &format!("export:{}", here.account), EXPORTS, now).await?;
        let whose = here.account.to_string();
        audit_add(&mut conn, caller, now, "account.export", None, &whose, json!({})).await?;
        Ok(Export { account: here.account, part: 0, after: None, fresh: true, begun: Some(now) })
    }
}

impl Export {
    /// The next piece of the document's text; none when it is whole.
    pub async fn next(&mut self, conn: &mut PgConnection) -> Result<Option<String>> {
        let Some(part) = PARTS.get(self.part) else { return Ok(None) };
        let rows: Vec<(Option<Uuid>, Value)> = sqlx::query_as(part.rows)
            .bind(self.account)
            .bind(self.account.to_string())
            .bind(self.after)
            .bind(AT_A_TIME)
            .fetch_all(conn)
            .await?;
        let mut text = String::new();
        if let Some(at) = self.begun.take() {
            text.push_str(&format!("{{\"exported_at\":{}", json!(at)));
        }
        if self.after.is_none() {
            text.push_str(&format!(",\n\"{}\":[", part.name));
            self.fresh = true;
        }
        for (_, row) in &rows {
            if !std::mem::take(&mut self.fresh) {
                text.push(',');
            }
            text.push('\n');
            text.push_str(&serde_json::to_string(row).map_err(Error::internal)?);
        }
        let full = i64::try_from(rows.len()).is_ok_and(|rows| rows == AT_A_TIME);
        self.after = rows.last().and_then(|(key, _)| *key).filter(|_| full);
        if self.after.is_none() {
            text.push(']');
            self.part += 1;
            if self.part == PARTS.len() {
                text.push_str("}\n");
            }
        }
        Ok(Some(text))
    }
}
