//! `freehold login`, `whoami`, `token`, `logout`: a person at a terminal, as opposed to an operator beside the databases.

use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::output::print;
use super::{Globals, table};
use crate::http::oauth::Tokens;
use crate::identity::userinfo::UserInfo;
use crate::kernel::{Clock, Error, Result, codes};

mod client;
mod store;

use client::{Answer, AuthServer, Started};
use store::{Access, Login, Store};

/// An access token that is good for less than this is not handed out any more.
const WORTH: chrono::TimeDelta = chrono::TimeDelta::seconds(60);

/// Sign in as yourself, with a browser
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  freehold login --server https://freehold.example.com
  freehold login # next to freehold dev, or where you signed in before

Shows a code and an address. Open the address in any browser, on any device, and type the code. What comes of it is kept \
in freehold/credentials.json below XDG_CONFIG_HOME (or ~/.config), or in FREEHOLD_HOME, for your eyes only.")]
pub struct LoginArgs {}

/// Show who is signed in, and to which tenants they belong
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  freehold whoami\n  freehold whoami --output json | jq -r '.tenants[].slug'"
)]
pub struct WhoamiArgs {}

/// Print an access token for a tenant's API, good for ten minutes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  freehold token --tenant acme
  freehold token --tenant acme --output json | jq -r .expires_at

  curl -H \"Authorization: Bearer $(freehold token --tenant acme)\" https://acme.freehold.example.com/api/v1/me")]
pub struct TokenArgs {
    /// The tenant it is for: slug or id
    #[arg(long)]
    tenant: String,
}

/// Sign out: the session ends here and on the server
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  freehold logout\n  freehold logout --server https://freehold.example.com"
)]
pub struct LogoutArgs {}

pub async fn login(globals: &Globals, _: &LoginArgs) -> Result<()> {
    let mut store = Store::open(globals)?;
    let server = AuthServer::new(&store.server(globals)?)?;
    let started = server.start().await?;
    say(&format!(
        "Open {} in a browser\nand check that it shows this code: {}\n",
        started.verification_uri_complete, started.user_code
    ));
    let tokens = {
        let bar = globals.progress().wait("waiting for your answer in the browser");
        let tokens = answered(&server, &started).await;
        bar.finish_and_clear();
        tokens?
    };
    store.put(server.name(), Login::new(tokens.refresh_token));
    store.keep(server.name(), "", &tokens.access_token, until(tokens.expires_in));
    store.save()?;
    let info = server.userinfo(&tokens.access_token).await?;
    print(globals.output, &Whoami { server: server.name(), info: &info }, shown)
}

/// Asks every few seconds, and less often when told so or when nobody answers.
async fn answered(server: &AuthServer, started: &Started) -> Result<Tokens> {
    let end = Instant::now() + Duration::from_secs(started.expires_in.unsigned_abs());
    let mut pause = Duration::from_secs(started.interval.unsigned_abs().clamp(1, 60));
    while Instant::now() + pause < end {
        tokio::time::sleep(pause).await;
        match server.poll(&started.device_code).await {
            Ok(Answer::Yes(tokens)) => return Ok(tokens),
            Ok(Answer::No(error)) => match error.as_str() {
                "authorization_pending" => {}
                "slow_down" => pause += Duration::from_secs(5),
                "access_denied" => {
                    return Err(Error::new(&codes::FORBIDDEN).detail("you said no in the browser"));
                }
                "expired_token" => break,
                other => return Err(client::strange(other)),
            },
            Err(error) if matches!(error.code().status, 408 | 429 | 503) => pause += Duration::from_secs(5),
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(&codes::TIMEOUT)
        .detail("nobody answered in the browser in time")
        .hint("run it again: freehold login"))
}

#[derive(Serialize)]
struct Whoami<'a> {
    server: &'a str,
    #[serde(flatten)]
    info: &'a UserInfo,
}

pub async fn whoami(globals: &Globals, _: &WhoamiArgs) -> Result<()> {
    let mut store = Store::open(globals)?;
    let server = AuthServer::new(&store.server(globals)?)?;
    let access = access(&mut store, &server, "").await?;
    let info = server.userinfo(&access.token).await?;
    print(globals.output, &Whoami { server: server.name(), info: &info }, shown)
}

fn shown(who: &Whoami<'_>) -> String {
    let info = who.info;
    let person = table::fields([
        ("server", who.server.to_owned()),
        ("id", info.sub.to_string()),
        ("name", info.name.clone()),
        ("email", table::or_dash(info.email.clone())),
    ]);
    let seats = table::table(
        ["tenant", "name", "role", "id"],
        info.tenants
            .iter()
            .map(|seat| [seat.slug.clone(), seat.name.clone(), seat.role.to_string(), seat.id.to_string()]),
    );
    format!("{person}\n{seats}")
}

#[derive(Serialize)]
struct Token<'a> {
    tenant: &'a str,
    access_token: &'a str,
    expires_at: DateTime<Utc>,
}

pub async fn token(globals: &Globals, args: &TokenArgs) -> Result<()> {
    let mut store = Store::open(globals)?;
    let server = AuthServer::new(&store.server(globals)?)?;
    let access = access(&mut store, &server, &args.tenant).await?;
    let shown = Token { tenant: &args.tenant, access_token: &access.token, expires_at: access.expires_at };
    print(globals.output, &shown, |token| token.access_token.to_owned())
}

pub async fn logout(globals: &Globals, _: &LogoutArgs) -> Result<()> {
    let mut store = Store::open(globals)?;
    let name = store.server(globals)?;
    let Some(login) = store.remove(&name) else {
        globals.note(&format!("nobody was signed in at {name}"));
        return Ok(());
    };
    store.save()?;
    // Forgotten here whatever the server says; but whoever believes to be signed out there should be.
    AuthServer::new(&name)?.revoke(&login.refresh_token).await.map_err(|error| {
        error.hint("you are signed out here, not there: end the session on the page of your sessions")
    })?;
    globals.note(&format!("signed out of {name}"));
    Ok(())
}

/// An access token that is good for a while: the one that is kept, or a new one. For a tenant, or (empty) for the person.
async fn access(store: &mut Store, server: &AuthServer, tenant: &str) -> Result<Access> {
    let signed_out = || {
        Error::new(&codes::UNAUTHENTICATED)
            .detail(format!("nobody is signed in at {}", server.name()))
            .hint("run: freehold login")
    };
    let login = store.get(server.name()).ok_or_else(signed_out)?;
    if let Some(kept) = login.access.get(tenant).filter(|kept| kept.expires_at > now() + WORTH) {
        return Ok(kept.clone());
    }
    match server.refresh(&login.refresh_token, tenant).await? {
        Answer::Yes(tokens) => {
            store.renew(server.name(), tokens.refresh_token);
            let access = store.keep(server.name(), tenant, &tokens.access_token, until(tokens.expires_in));
            store.save()?;
            Ok(access)
        }
        Answer::No(error) if error == "invalid_grant" => {
            store.remove(server.name());
            store.save()?;
            Err(signed_out().detail(format!("your session at {} has ended", server.name())))
        }
        Answer::No(error) if error == "invalid_target" => Err(Error::new(&codes::TENANT_NOT_FOUND)
            .detail(format!("there is no tenant {tenant} among yours"))
            .hint("see yours with: freehold whoami")),
        Answer::No(error) if error == "interaction_required" => Err(Error::new(&codes::FORBIDDEN)
            .detail(format!("{tenant} wants you to sign in with its own provider"))
            .hint("do that in the browser, then run: freehold login")),
        Answer::No(error) => Err(client::strange(&error)),
    }
}

fn until(seconds: i64) -> DateTime<Utc> {
    now() + chrono::TimeDelta::seconds(seconds.clamp(0, 86_400))
}

fn now() -> DateTime<Utc> {
    Clock::System.now()
}

/// Said in any case: without the code nobody can go on.
fn say(text: &str) {
    writeln!(anstream::stderr(), "{text}").ok();
}
