//! `freehold dev`: the whole platform on one machine, with nothing to set up.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use clap::Args;
use secrecy::SecretString;

use super::serve::{options, start_logs, stop_signal};
use crate::app::{self, Parts};
use crate::billing::{self, catalogue};
use crate::config::home::{self, HomeSettings};
use crate::config::{ControlConfig, ServeConfig};
use crate::control_plane::errands::Errands;
use crate::control_plane::{slots, worker};
use crate::http::serve;
use crate::identity::chores;
use crate::kernel::{Entropy, Error, Result};
use crate::local::{Stack, StackOptions, write_private};
use crate::product::Current;
use crate::telemetry::{logs::LogFormat, numbers};

mod cloud;
mod demo;
mod fleet;
mod mailbox;
mod money;
mod screen;
mod sign_in;

use cloud::DevCloud;
use money::Money;
use sign_in::People;

/// Run everything on this machine: PostgreSQL, Redis, server, worker, sign-in, in debug builds a stand-in for Stripe, two demo tenants
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  freehold dev                                        # start, or continue with the data of last time
  freehold dev --reset                                # throw the data away and start over
  freehold dev --with-cloud                           # Terraform too, against a stand-in for AWS
  FREEHOLD_HTTP_ADDR=127.0.0.1:9000 freehold dev      # another port

While it runs, other commands find it by themselves when they are started in the same folder: freehold tenant list. \
It keeps everything in .freehold/ (or FREEHOLD_HOME). Ctrl-C stops all that it started.")]
pub struct DevArgs {
    /// Throw away the data of earlier runs first
    #[arg(long)]
    pub reset: bool,

    /// Provision with the real Terraform, against a stand-in for AWS (moto). Needs a checkout of Freehold, Terraform and
    /// Python 3
    #[arg(long)]
    pub with_cloud: bool,

    #[command(flatten)]
    pub serve: ServeConfig,
}

/// Starts the stack, prints where everything is, and serves until a stop signal.
pub async fn run(control: &ControlConfig, args: &DevArgs) -> Result<()> {
    start_logs(LogFormat::Pretty)?;
    let begun = Instant::now();
    // First of all, before anything is started that would have to be stopped again.
    let listener = serve::bind(args.serve.http_addr).await?;
    let addr = listener.local_addr().map_err(Error::internal)?;
    let stop = stop_signal()?;
    if args.reset {
        screen::say("throwing away the data of earlier runs");
        Stack::reset(&control.home).await?;
        // What the stand-in for Stripe remembers, and the demo's keys, are about tenants that are gone.
        for file in ["stripe.json", "demo-keys.json"] {
            std::fs::remove_file(control.home.join(file)).ok();
        }
    }
    screen::say("starting PostgreSQL (two servers) and Redis");
    let started = stop.run_until_cancelled(Stack::start(&control.home, &StackOptions::default())).await;
    let Some(stack) = started.transpose()? else { return Ok(()) };
    let outcome = on_stack(control, args, &stack, listener, addr, begun, &stop).await;
    screen::say("stopping");
    stack.stop().await?;
    outcome
}

async fn on_stack(
    control: &ControlConfig,
    args: &DevArgs,
    stack: &Stack,
    listener: tokio::net::TcpListener,
    addr: SocketAddr,
    begun: Instant,
    stop: &tokio_util::sync::CancellationToken,
) -> Result<()> {
    let settings = settings(&control.home, stack, addr)?;
    let control = with_settings(control, &settings);
    let mut hands = app::hands(&control, "freehold-dev")?;
    let mut identity = args.serve.identity()?;
    let money = Money::provide(&control.home, args.serve.stripe.as_deref(), &mut hands.cp).await?;
    let stripe = money.settings.clone();
    hands.tenant_jobs = app::tenant_jobs::<Current>(&hands);
    // A tenant that is made has an account with Stripe; the letters come when it is known who carries them.
    let opening = app::billing(&hands.cp, hands.admins.clone(), stripe.clone(), None)?;
    hands.errands = app::errands_with_billing(Errands::default(), &opening);
    let prepared = async {
        fleet::prepare(&hands, &control.home, stack).await?;
        if stripe.enabled() {
            catalogue::sync(&hands.cp, &opening.stripe, false).await?;
        }
        let tenants = demo::tenants(&hands, &control.home).await?;
        // The demo tenants took a slot each.
        slots::refill(&hands, slots::Fill::Full).await?;
        Ok::<_, Error>(tenants)
    };
    let (home, open) = (&control.home, !addr.ip().is_loopback());
    let people = People::provide(home, &hands.cp.addresses, &mut identity, open);
    let ready = stop.run_until_cancelled(async { tokio::join!(prepared, people) }).await;
    let Some((tenants, mut people)) = ready else { return Ok(()) };
    let tenants = tenants?;
    let mut cloud = None;
    if args.with_cloud {
        let providing = DevCloud::provide(&mut hands, &control.home, stack);
        let Some(provided) = stop.run_until_cancelled(providing).await else { return Ok(()) };
        cloud = Some(provided?);
    }
    let errands = match people.carrier() {
        Some(carrier) => app::errands_by(&hands, &identity, Some(carrier))?,
        None => app::errands(&hands, &identity)?,
    };
    let bills = match people.carrier() {
        Some(carrier) => app::billing(&hands.cp, hands.admins.clone(), stripe.clone(), Some(carrier))?,
        None => app::billing_of_worker(&hands, stripe.clone(), &identity)?,
    };
    hands.errands = app::errands_with_billing(errands, &bills);

    let metrics = numbers::install();
    let mut config = args.serve.clone();
    config.redis_url = Some(SecretString::from(settings.redis_url.clone()));
    let ways_in = screen::WaysIn::of(&people, &identity, &money);
    let parts = Parts {
        draining: stop.clone(),
        metrics,
        identity,
        stripe,
        pages: people.pages(),
        ..Parts::default()
    };
    let server = app::server::<Current>(hands.cp.clone(), hands.master.clone(), &config, parts)?;
    demo::data(&server.http, &tenants).await?;
    let working = tokio::spawn(worker::work_with(hands.clone(), chores::ALL, stop.clone()));
    let billed = tokio::spawn(billing::run(bills, stop.clone()));
    money.deliver_to(addr);
    screen::ready(addr, &control, &tenants, &ways_in, begun.elapsed());
    if let Some(cloud) = &cloud {
        cloud.note();
    }
    tokio::select! {
        () = server.run(listener, options(&config)) => {}
        () = people.keep_time(&hands.cp.clock) => {}
    }
    working.await.ok();
    billed.await.ok();
    hands.close().await;
    Ok(())
}

/// The settings of last time with this time's ports; a master key made the first time.
fn settings(folder: &Path, stack: &Stack, addr: SocketAddr) -> Result<HomeSettings> {
    let master_key = match home::load(folder)? {
        Some(known) => known.master_key,
        None => data_encoding::HEXLOWER.encode(&Entropy::default().bytes::<32>()),
    };
    let settings = HomeSettings {
        control_url: stack.control_url(),
        redis_url: stack.redis_url(),
        master_key,
        public_scheme: format!("http:{}", addr.port()),
        base_domain: "localhost".to_owned(),
    };
    let text = serde_json::to_string_pretty(&settings).map_err(Error::internal)?;
    write_private(&home::settings_file(folder), &text)?;
    Ok(settings)
}

fn with_settings(control: &ControlConfig, settings: &HomeSettings) -> ControlConfig {
    ControlConfig {
        control_url: Some(SecretString::from(settings.control_url.clone())),
        master_key: Some(SecretString::from(settings.master_key.clone())),
        public_scheme: settings.public_scheme.clone(),
        base_domain: settings.base_domain.clone(),
        ..control.clone()
    }
}
