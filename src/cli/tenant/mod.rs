//! `freehold tenant …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::fleet::{Change, Fleet};
use super::output::{print, print_page};
use super::paging::Paging;
use super::{Globals, table};
use crate::control_plane::infra::resources::ResourcesState;
use crate::control_plane::provisioning::NewTenant;
use crate::control_plane::tenants::{Rename, Tenant, TenantDetail, TenantFilter, TenantRef, TenantState};
use crate::kernel::Result;

mod bulk;
mod psql;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a tenant, or many from a file
    #[command(after_help = "\
Examples:
  freehold tenant create acme --name 'Acme Inc.' --plan team
  freehold tenant create acme --output json | jq -r .url
  freehold tenant create --from tenants.ndjson # lines like {\"slug\": \"acme\", \"name\": \"Acme Inc.\", \"plan\": \"team\"}
  freehold tenant create --from - --output json")]
    Create(Create),
    /// List tenants, oldest first
    #[command(after_help = "\
Examples:
  freehold tenant list
  freehold tenant list --state suspended --all
  freehold tenant list --plan team --output json | jq -r '.items[].slug'")]
    List(List),
    /// Show one tenant, with its schema, login, epoch and version
    #[command(
        after_help = "Examples:\n  freehold tenant show acme\n  freehold tenant show ten_06fqv3k1s9t4m7b2n8c5v0r6e4"
    )]
    Show(One),
    /// Suspend a tenant: its next request is refused, and its database login is disabled
    #[command(after_help = "Examples:\n  freehold tenant suspend acme --reason 'invoice 4711 is unpaid'")]
    Suspend(WithReason),
    /// Let a suspended tenant back in
    #[command(after_help = "Examples:\n  freehold tenant resume acme")]
    Resume(One),
    /// Change a tenant's slug, name or both; the old address stops working at once
    #[command(after_help = "\
Examples:
  freehold tenant rename acme --name 'Acme International'
  freehold tenant rename acme --slug acme-int")]
    Rename(RenameArgs),
    /// Delete a tenant: shut off at once, removed for good after 30 days
    #[command(after_help = "\
Examples:
  freehold tenant delete acme --reason 'contract ended'
  freehold tenant undelete acme # within the 30 days")]
    Delete(WithReason),
    /// Restore a deleted tenant within its 30 days
    #[command(after_help = "Examples:\n  freehold tenant undelete acme")]
    Undelete(One),
    /// Remove a deleted tenant for good: its schema, its login, its keys
    #[command(after_help = "\
Examples:
  freehold tenant purge acme # once its 30 days are over
  freehold tenant purge acme --now

A purged tenant is gone: nothing but a backup of its shard brings its data back. What stays is its audit log.")]
    Purge(PurgeArgs),
    /// Run psql as the tenant's own login, for support. The audit log records it
    #[command(after_help = "\
Examples:
  freehold tenant psql acme
  freehold tenant psql acme -- -c '\\dt'

psql sees what the tenant's requests see: its own schema, within its plan's limits. What follows -- goes to psql as it is, \
and into the audit log. The exit code is psql's.")]
    Psql(Psql),
}

#[derive(Debug, Args)]
pub struct Create {
    /// Its name in the address: acme in acme.example.com
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    slug: Option<String>,
    /// Its display name; by default the slug
    #[arg(long, requires = "slug")]
    name: Option<String>,
    /// Its plan; by default free
    #[arg(long, requires = "slug")]
    plan: Option<String>,
    /// Create many: a file with one JSON object per line, or - for stdin
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only tenants in this state; deleted ones are shown only if you ask for them
    #[arg(long, value_enum)]
    state: Option<TenantState>,
    /// Only tenants on this shard
    #[arg(long)]
    shard: Option<String>,
    /// Only tenants on this plan
    #[arg(long)]
    plan: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

#[derive(Debug, Args)]
pub struct One {
    /// Its slug or id
    tenant: TenantRef,
}

#[derive(Debug, Args)]
pub struct WithReason {
    /// Its slug or id
    tenant: TenantRef,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "by an operator")]
    reason: String,
}

#[derive(Debug, Args)]
pub struct RenameArgs {
    /// Its slug or id
    tenant: TenantRef,
    /// The new slug
    #[arg(long, required_unless_present = "name")]
    slug: Option<String>,
    /// The new name
    #[arg(long)]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// Its slug or id
    tenant: TenantRef,
    /// Do not wait for the 30 days to pass
    #[arg(long)]
    now: bool,
}

#[derive(Debug, Args)]
pub struct Psql {
    /// Its slug or id
    tenant: TenantRef,
    /// Arguments for psql
    #[arg(last = true, value_name = "PSQL ARGS")]
    args: Vec<String>,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    let fleet = Fleet::open(globals).await?;
    let change = async |tenant: TenantRef, change: Change| {
        print(globals.output, &fleet.tenant_change(&tenant, &change).await?, one)
    };
    match command {
        Command::Suspend(args) => change(args.tenant, Change::Suspend { reason: args.reason }).await,
        Command::Resume(args) => change(args.tenant, Change::Resume).await,
        Command::Delete(args) => change(args.tenant, Change::Delete { reason: args.reason }).await,
        Command::Undelete(args) => change(args.tenant, Change::Undelete).await,
        Command::Purge(args) => change(args.tenant, Change::Purge { now: args.now }).await,
        Command::Create(args) => create(globals, &fleet, args).await,
        Command::List(args) => list(globals, &fleet, args).await,
        Command::Show(args) => print(globals.output, &fleet.tenant_show(&args.tenant).await?, detail),
        Command::Rename(args) => {
            let to = Rename { slug: args.slug, name: args.name };
            print(globals.output, &fleet.tenant_rename(&args.tenant, &to).await?, detail)
        }
        Command::Psql(args) => psql::run(fleet.direct("tenant psql")?, &args.tenant, &args.args).await,
    }
}

async fn create(globals: &Globals, fleet: &Fleet, args: Create) -> Result<()> {
    match (args.slug, args.from) {
        (Some(slug), _) => {
            let new = NewTenant { slug, name: args.name, plan: args.plan };
            print(globals.output, &fleet.tenant_create(&new).await?, one)
        }
        (None, from) => bulk::create(globals, fleet, from.as_deref()).await,
    }
}

async fn list(globals: &Globals, fleet: &Fleet, args: List) -> Result<()> {
    let page = args.paging.collect(async |limit, cursor| {
        let (shard, plan) = (args.shard.clone(), args.plan.clone());
        fleet.tenant_list(&TenantFilter { state: args.state, shard, plan, search: None, limit, cursor }).await
    });
    print_page(globals, &page.await?, many)
}

fn one(tenant: &Tenant) -> String {
    table::fields([
        ("id", tenant.id.to_string()),
        ("slug", tenant.slug.clone()),
        ("name", tenant.name.clone()),
        ("state", tenant.state.to_string()),
        ("tier", tenant.tier.as_str().to_owned()),
        ("plan", tenant.plan.clone()),
        ("shard", table::or_dash(tenant.shard.as_ref())),
        ("url", tenant.url.clone()),
        ("run", table::or_dash(tenant.run)),
        ("created", table::time(tenant.created_at)),
        ("purge after", table::or_dash(tenant.purge_after.map(table::time))),
    ])
}

fn detail(detail: &TenantDetail) -> String {
    one(&detail.tenant)
        + &table::fields([
            ("schema", table::or_dash(detail.schema.as_ref())),
            ("role", table::or_dash(detail.role.as_ref())),
            ("epoch", detail.epoch.to_string()),
            ("version", table::or_dash(detail.version)),
            ("reason", table::or_dash(detail.state_reason.as_ref())),
            ("resources", table::or_dash(detail.resources.map(ResourcesState::as_str))),
            // As wide as the longest name above, so that both lists line up.
            ("domains    ", table::or_dash((!detail.domains.is_empty()).then(|| detail.domains.join(", ")))),
        ])
}

fn many(tenants: &[Tenant]) -> String {
    table::table(
        ["slug", "name", "state", "plan", "shard", "created", "id"],
        tenants.iter().map(|tenant| {
            [
                tenant.slug.clone(),
                tenant.name.clone(),
                tenant.state.to_string(),
                tenant.plan.clone(),
                table::or_dash(tenant.shard.as_ref()),
                table::time(tenant.created_at),
                tenant.id.to_string(),
            ]
        }),
    )
}
