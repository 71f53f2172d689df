//! `freehold plan …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::fleet::{Direct, Fleet};
use super::output::{print, print_page};
use super::{Globals, table};
use crate::app;
use crate::billing::catalogue::{self, Diff};
use crate::billing::settings::Settings as StripeSettings;
use crate::control_plane::plans::{self, Plan, PlanChanges, SHIPPED, bytes_text, money_text};
use crate::db::admin::ShardAdmins;
use crate::kernel::{Error, Result, codes};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the plans on sale and what they grant
    #[command(
        after_help = "Examples:\n  freehold plan list\n  freehold plan list --output json | jq '.items[].entitlements'"
    )]
    List,
    /// Apply a plan file
    #[command(after_help = "\
Examples:
  freehold plan apply --dry-run # the plans this program ships with
  freehold plan apply --file plans.toml --apply

Says what changes, plan by plan. Plans that the file leaves out are no longer sold; tenants that have one keep it. \
A change of what a plan grants is in effect on every server within a second. A changed price is for those who \
subscribe from then on; who has the plan already keeps the price they agreed to.")]
    Apply(Apply),
}

#[derive(Debug, Args)]
pub struct Apply {
    /// The plan file; by default the plans that this program ships with
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only show what would change
    #[arg(long, conflicts_with = "apply")]
    dry_run: bool,
    /// Make the changes; this is also the default
    #[arg(long)]
    apply: bool,
    /// How Stripe is reached: the same TOML file as the servers' (docs/STRIPE.md, infra/stripe.example.toml). With it,
    /// products, prices and meters follow at once; without it, a worker brings them up to date within a minute
    #[arg(long, env = "FREEHOLD_STRIPE", value_name = "FILE")]
    stripe: Option<PathBuf>,
}

/// What changes here, and what at Stripe.
#[derive(Serialize)]
struct Applied {
    #[serde(flatten)]
    plans: PlanChanges,
    #[serde(skip_serializing_if = "Option::is_none")]
    stripe: Option<Diff>,
}

pub async fn run(globals: &Globals, command: Command) -> Result<()> {
    match command {
        Command::List => print_page(globals, &Fleet::open(globals).await?.plan_list().await?, many),
        Command::Apply(args) => {
            let toml = match &args.file {
                None => SHIPPED.to_owned(),
                Some(path) => std::fs::read_to_string(path).map_err(|error| {
                    Error::new(&codes::BAD_REQUEST)
                        .detail(format!("{} cannot be read: {error}", path.display()))
                })?,
            };
            let dry_run = args.dry_run && !args.apply;
            // Settings that are wrong are found before anything changes.
            let settings = args.stripe.as_deref().map(|file| StripeSettings::of(Some(file))).transpose()?;
            let fleet = Fleet::open(globals).await?;
            let plans = fleet.plan_apply(toml.clone(), dry_run).await?;
            let stripe = match (&fleet, settings) {
                (Fleet::Direct(direct), Some(settings)) => {
                    Some(to_stripe(direct, settings, &toml, dry_run).await?)
                }
                _ => None,
            };
            print(globals.output, &Applied { plans, stripe }, |applied| {
                let mut text = changed(&applied.plans);
                if let Some(stripe) = &applied.stripe {
                    text.push_str(&format!("\n{stripe}"));
                }
                text
            })
        }
    }
}

async fn to_stripe(direct: &Direct, settings: StripeSettings, toml: &str, dry_run: bool) -> Result<Diff> {
    if dry_run {
        // The control database does not have these plans yet.
        let plans = plans::parse(toml)?;
        return catalogue::preview(&mut *direct.control().await?, settings.livemode(), &plans).await;
    }
    let billing = app::billing(&direct.cp, ShardAdmins::default(), settings, None)?;
    catalogue::sync(&direct.cp, &billing.stripe, false).await
}

fn changed(changes: &PlanChanges) -> String {
    let list = |ids: &[String]| if ids.is_empty() { "-".to_owned() } else { ids.join(", ") };
    let mut text = table::fields([
        ("added", list(&changes.added)),
        ("changed", list(&changes.changed)),
        ("retired", list(&changes.retired)),
        ("unchanged", list(&changes.unchanged)),
    ]);
    if !changes.differences.is_empty() {
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        text.push('\n');
        text.push_str(&table::table(
            ["plan", "what", "from", "to"],
            changes.differences.iter().map(|difference| {
                [
                    difference.plan.clone(),
                    difference.what.clone(),
                    or_dash(&difference.from),
                    or_dash(&difference.to),
                ]
            }),
        ));
    }
    text
}

fn many(plans: &[Plan]) -> String {
    table::table(
        [
            "plan",
            "name",
            "tier",
            "pool",
            "requests/s",
            "burst",
            "connections",
            "statement ms",
            "projects",
            "seats",
            "requests/month",
            "stored",
            "price",
        ],
        plans.iter().map(|plan| {
            let grants = &plan.entitlements;
            [
                plan.id.clone(),
                plan.name.clone(),
                plan.tier.as_str().to_owned(),
                plan.shard_pool.clone(),
                grants.requests_per_second.to_string(),
                grants.burst.to_string(),
                grants.connections.to_string(),
                grants.statement_timeout_ms.to_string(),
                grants.projects.to_string(),
                grants.seats.to_string(),
                grants.requests_per_month.map_or_else(|| "-".to_owned(), |limit| limit.to_string()),
                grants.stored_bytes.map_or_else(|| "-".to_owned(), bytes_text),
                plan.price
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |price| money_text(price.monthly_minor, &price.currency)),
            ]
        }),
    )
}
