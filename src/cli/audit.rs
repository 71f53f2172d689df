//! `freehold audit …`

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use futures_util::StreamExt;

use super::fleet::Fleet;
use super::output::{print, print_page, write_out};
use super::paging::Paging;
use super::{Globals, table};
use crate::control_plane::audit::export::Format;
use crate::control_plane::audit::verify::{AuditHead, Broken, HeadFilter, Verified};
use crate::control_plane::audit::{AuditFilter, AuditLine};
use crate::control_plane::tenants::TenantRef;
use crate::kernel::page::Page;
use crate::kernel::{Error, Result, codes};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List who changed what, newest first
    #[command(after_help = "\
Examples:
  freehold audit list --tenant acme
  freehold audit list --action tenant.psql --all --output json
  freehold audit list --action support. --since 2026-11-01T00:00:00Z")]
    List(List),
    /// Export the log to stdout. The export is itself recorded in the log
    #[command(after_help = "\
Examples:
  freehold audit export --tenant acme > acme.csv
  freehold audit export --format jsonl --since 2026-11-01T00:00:00Z > november.jsonl")]
    Export(Export),
    /// Check that no line was changed, removed, moved or inserted
    #[command(after_help = "\
Examples:
  freehold audit verify
  freehold audit verify --tenant acme --output json
  freehold audit verify --heads heads.json # compare with ends that were kept elsewhere

Exits with 1 when a chain is broken, and names its first broken line. Whoever can change the control database as its \
superuser can write the whole log anew; only ends that were kept elsewhere (freehold audit heads) show that.")]
    Verify(Verify),
    /// List the ends of all chains, for safekeeping elsewhere
    #[command(after_help = "Examples:\n  freehold audit heads --all --output json > heads.json")]
    Heads(Heads),
}

#[derive(Debug, Args)]
pub struct Which {
    /// Only changes of this tenant: slug or id (a purged one by id)
    #[arg(long)]
    tenant: Option<TenantRef>,
    /// Only changes of this kind (tenant.suspend), or of every kind that begins like this (tenant.)
    #[arg(long)]
    action: Option<String>,
    /// Only changes by this actor: acc_…, operator:opr_… (a person), operator:opk_… (a key of nobody), cli:root
    #[arg(long)]
    actor: Option<String>,
    /// Only changes of the thing with this id
    #[arg(long, value_name = "ID")]
    target: Option<String>,
    /// Not before this time, for example 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    until: Option<DateTime<Utc>>,
}

impl Which {
    async fn filter(&self, fleet: &Fleet) -> Result<AuditFilter> {
        let tenant = match &self.tenant {
            Some(tenant) => Some(fleet.tenant_id(tenant).await?),
            None => None,
        };
        Ok(AuditFilter {
            tenant,
            action: self.action.clone(),
            actor: self.actor.clone(),
            subject: self.target.clone(),
            since: self.since,
            until: self.until,
            ..AuditFilter::default()
        })
    }
}

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    which: Which,
    /// csv for spreadsheets; jsonl for programs, with one JSON value per line
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// Only this tenant's chain: slug or id
    #[arg(long)]
    tenant: Option<TenantRef>,
    /// Compare with ends printed earlier by `freehold audit heads --output json`
    #[arg(long, value_name = "FILE")]
    heads: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Heads {
    #[command(flatten)]
    paging: Paging,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    match command {
        Command::List(args) => list(globals, &fleet, &args).await,
        Command::Export(args) => export(&fleet, &args).await,
        Command::Verify(args) => verify(globals, &fleet, &args).await,
        Command::Heads(args) => {
            let page = args
                .paging
                .collect(async |limit, cursor| fleet.audit_heads(&HeadFilter { limit, cursor }).await);
            print_page(globals, &page.await?, heads)
        }
    }
}

async fn list(globals: &Globals, fleet: &Fleet, args: &List) -> Result<()> {
    let filter = args.which.filter(fleet).await?;
    let page = args.paging.collect(async |limit, cursor| {
        fleet.audit_list(&AuditFilter { limit, cursor, ..filter.clone() }).await
    });
    print_page(globals, &page.await?, many)
}

async fn export(fleet: &Fleet, args: &Export) -> Result<()> {
    let filter = AuditFilter { format: Some(args.format), ..args.which.filter(fleet).await? };
    let mut pieces = fleet.audit_export(&filter).await?;
    while let Some(piece) = pieces.next().await {
        write_out(&piece?)?;
    }
    Ok(())
}

async fn verify(globals: &Globals, fleet: &Fleet, args: &Verify) -> Result<()> {
    let tenant = match &args.tenant {
        Some(tenant) => Some(fleet.tenant_id(tenant).await?),
        None => None,
    };
    let kept = args.heads.as_ref().map(read_heads).transpose()?;
    let bar = globals.progress().wait("verifying the audit log");
    let mut report = fleet
        .audit_verify(tenant, |so_far: &Verified| {
            bar.set_message(format!("{} lines of {} chains", so_far.lines, so_far.chains));
        })
        .await?;
    if let Some(kept) = kept {
        let mine: Vec<AuditHead> = match tenant {
            Some(tenant) => kept.into_iter().filter(|head| head.chain == tenant.to_string()).collect(),
            None => kept,
        };
        report.broken.extend(fleet.audit_compare(&mine).await?);
    }
    bar.finish_and_clear();
    print(globals.output, &report, verified)?;
    match report.broken.len() {
        0 => Ok(()),
        1 => Err(Error::new(&codes::INTERNAL).detail("a chain of the audit log is broken")),
        many => {
            Err(Error::new(&codes::INTERNAL).detail(format!("{many} chains of the audit log are broken")))
        }
    }
}

fn read_heads(file: &PathBuf) -> Result<Vec<AuditHead>> {
    let bad = |why: String| {
        Error::new(&codes::BAD_REQUEST)
            .detail(format!("{} is not a list of chains' ends: {why}", file.display()))
            .hint("make one with: freehold audit heads --all --output json")
    };
    let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
    let page: Page<AuditHead> = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    Ok(page.items)
}

fn verified(report: &Verified) -> String {
    let mut text = format!("{} lines in {} chains\n", report.lines, report.chains);
    if report.forgotten > 0 {
        text += &format!("{} of them have forgotten what they said of a person\n", report.forgotten);
    }
    for Broken { chain, seq, line, what, detail } in &report.broken {
        let line = line.map(|line| format!(" ({line})")).unwrap_or_default();
        text += &format!("BROKEN  {chain} at line {seq}{line}: {what:?}: {detail}\n");
    }
    if report.broken.is_empty() {
        text += "every chain is whole\n";
    }
    text
}

fn heads(heads: &[AuditHead]) -> String {
    let row = |head: &AuditHead| [head.chain.clone(), head.seq.to_string(), head.hash.clone()];
    table::table(["chain", "line", "hash"], heads.iter().map(row))
}

fn many(lines: &[AuditLine]) -> String {
    table::table(
        ["at", "actor", "action", "subject", "detail", "request id"],
        lines.iter().map(|line| {
            [
                table::time(line.at),
                line.actor.clone(),
                line.action.clone(),
                line.subject.clone(),
                line.detail.to_string(),
                table::or_dash(line.request_id.as_ref()),
            ]
        }),
    )
}
