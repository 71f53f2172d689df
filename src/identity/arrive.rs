//! What becomes of a browser that came back from its provider: a session, a link, or a refusal. One transaction.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::Identity;
use super::accounts::{Vouched, account_by_link, account_enter, link_add};
use super::enter::{LetIn, Proven};
use super::sessions::{Asking, account_shared, session_is_fresh, session_is_live};
use super::sign_in::{Purpose, Returned};
use super::sso::{sso_method, sso_seat, tenant_of, within};
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::ids::{AccountId, SessionId};
use crate::kernel::{Error, Result, codes};

/// The session that the browser has already.
#[derive(Clone, Copy, Debug)]
pub struct Here {
    pub account: AccountId,
    pub session: SessionId,
}

/// What came of it.
pub struct Arrived {
    pub account: AccountId,
    /// The account was made just now.
    pub new: bool,
    /// The browser's new session, or the wait for a second factor; none when it keeps the session it has.
    pub let_in: Option<LetIn>,
}

impl Identity {
    /// Ends a way to a provider and back. Signing in always begins a session with a new token, and ends the one that
    /// the browser had.
    ///
    /// # Errors
    /// `forbidden` for a stranger from a workspace's own provider, who is not to have a seat there; `payment_required` when
    /// there is none free; `sign_in_failed` when a link or a confirmation comes back to a browser that is no longer signed
    /// in as the one who asked, or a confirmation is another person's; `conflict` for a link that is another account's;
    /// `confirm_required` for a link that took too long.
    pub async fn arrive(&self, returned: &Returned, here: Option<Here>, asking: &Asking) -> Result<Arrived> {
        match self.arrive_once(returned, here, asking).await {
            // Two first sign-ins of one person at once: the other made the account, and this one enters it.
            Err(error) if returned.purpose == Purpose::SignIn && error.is(&codes::CONFLICT) => {
                self.arrive_once(returned, here, asking).await
            }
            other => other,
        }
    }

    async fn arrive_once(&self, returned: &Returned, here: Option<Here>, asking: &Asking) -> Result<Arrived> {
        // Those names are ours to give.
        if returned.vouched.issuer == self.keyring.issuer() {
            return Err(Error::new(&codes::SIGN_IN_FAILED).detail("no provider may speak for this site"));
        }
        let now = self.cp.clock.now();
        let mut tx = self.cp.db.begin().await?;
        let asked = returned.account;
        let vouched = &within(&mut tx, &returned.vouched).await?;
        let (account, new) = match returned.purpose {
            Purpose::SignIn => account_enter(&mut tx, vouched, now).await?,
            Purpose::Confirm => (confirmed(&mut tx, asked, vouched, here, now).await?, false),
            Purpose::Link => {
                let account = link(&mut tx, asked, vouched, here, asking, now).await?;
                tx.commit().await?;
                return Ok(Arrived { account, new: false, let_in: None });
            }
            Purpose::Operator => return Err(Error::new(&codes::SIGN_IN_FAILED)),
        };
        // Before a workspace's row, as whoever erases an account has it.
        account_shared(&mut tx, account).await?;
        if let (Purpose::SignIn, Some(tenant)) = (returned.purpose, vouched.tenant()) {
            let caller = Caller { actor: account.to_string(), request_id: asking.request_id.clone() };
            sso_seat(&mut tx, &caller, tenant, account, now).await?;
        }
        let action = match returned.purpose {
            Purpose::Confirm => "session.confirm",
            _ => "session.start",
        };
        let proven = Proven {
            account,
            new,
            method: method_of(&vouched.provider),
            action,
            return_to: &returned.return_to,
            browser_hash: returned.browser_hash,
        };
        let let_in = self.let_in(&mut tx, &proven, here, asking, now).await?;
        tx.commit().await?;
        Ok(Arrived { account, new, let_in: Some(let_in) })
    }
}

/// How a session that this provider vouched for was begun.
pub fn method_of(provider: &str) -> String {
    match tenant_of(provider) {
        Some(tenant) => sso_method(tenant),
        None => format!("oidc:{provider}"),
    }
}

/// Who asked is who is still signed in, in this browser.
async fn still_here(
    conn: &mut PgConnection,
    asked: Option<AccountId>,
    here: Option<Here>,
    now: DateTime<Utc>,
) -> Result<Here> {
    let gone = || {
        Error::new(&codes::SIGN_IN_FAILED).detail("you are no longer signed in as the one who asked for this")
    };
    let here = here.filter(|here| asked == Some(here.account)).ok_or_else(gone)?;
    account_shared(&mut *conn, here.account).await?;
    if session_is_live(conn, here.account, here.session, now).await? { Ok(here) } else { Err(gone()) }
}

async fn confirmed(
    conn: &mut PgConnection,
    asked: Option<AccountId>,
    vouched: &Vouched,
    here: Option<Here>,
    now: DateTime<Utc>,
) -> Result<AccountId> {
    let here = still_here(conn, asked, here, now).await?;
    if account_by_link(conn, vouched).await? != Some(here.account) {
        return Err(Error::new(&codes::SIGN_IN_FAILED).detail("that sign-in is not one of your account"));
    }
    Ok(here.account)
}

async fn link(
    conn: &mut PgConnection,
    asked: Option<AccountId>,
    vouched: &Vouched,
    here: Option<Here>,
    asking: &Asking,
    now: DateTime<Utc>,
) -> Result<AccountId> {
    let here = still_here(conn, asked, here, now).await?;
    session_is_fresh(conn, here.account, here.session, now).await?;
    // Linked already: nothing to do.
    if account_by_link(conn, vouched).await? == Some(here.account) {
        return Ok(here.account);
    }
    link_add(conn, here.account, vouched, now).await?;
    let caller = Caller { actor: here.account.to_string(), request_id: asking.request_id.clone() };
    let detail = json!({ "provider": vouched.provider, "issuer": vouched.issuer });
    audit_add(conn, &caller, now, "account.link", vouched.tenant(), &here.account.to_string(), detail)
        .await?;
    Ok(here.account)
}
