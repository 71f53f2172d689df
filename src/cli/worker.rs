//! `freehold worker`: carries out runs and jobs, and repairs what has drifted.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::serve::{start_logs, stop_signal};
use crate::app;
use crate::billing;
use crate::billing::settings::Settings as StripeSettings;
use crate::config::ControlConfig;
use crate::control_plane::infra::settings::InfraSettings;
use crate::control_plane::worker::{self, Pulse};
use crate::http::health::WorkerHealth;
use crate::identity::chores;
use crate::identity::settings::Settings;
use crate::kernel::Result;
use crate::product::Current;
use crate::telemetry::logs::LogFormat;
use crate::telemetry::numbers;

/// Carry out runs and jobs, keep spare slots ready, repair what has drifted
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  FREEHOLD_CONTROL_URL=postgres://… FREEHOLD_MASTER_KEY=… freehold worker
  freehold worker --metrics-addr 127.0.0.1:9091   # /metrics and /health/ready for monitoring

Any number of workers may run: each run and each job is held by one of them at a time. If a worker falls silent, another \
takes over its runs after 10 seconds and its jobs after 60. Each shard's admin DSN is read from where the shard's \
reference points (env:NAME, file:/path).")]
pub struct WorkerArgs {
    /// How mail is sent: the same TOML file as the servers' (docs/IDENTITY.md, infra/identity.example.toml). Without it,
    /// invitations are not delivered
    #[arg(long, env = "FREEHOLD_IDENTITY", value_name = "FILE")]
    pub identity: Option<PathBuf>,

    /// What is provisioned in a cloud, and how: a TOML file (docs/OPERATIONS.md, infra/cloud.example.toml). Without it,
    /// nothing is
    #[arg(long, env = "FREEHOLD_INFRA", value_name = "FILE")]
    pub infra: Option<PathBuf>,

    /// How Stripe is reached: the same TOML file as the servers' (docs/STRIPE.md, infra/stripe.example.toml). Without it,
    /// use is recorded and nobody is billed
    #[arg(long, env = "FREEHOLD_STRIPE", value_name = "FILE")]
    pub stripe: Option<PathBuf>,

    /// Serve /metrics and the health pages on this address, for monitoring only. Without it the worker listens nowhere
    #[arg(long, env = "FREEHOLD_METRICS_ADDR", value_name = "ADDR")]
    pub metrics_addr: Option<SocketAddr>,
}

/// Works until a stop signal.
pub async fn run(control: &ControlConfig, args: &WorkerArgs) -> Result<()> {
    start_logs(LogFormat::Json)?;
    let metrics = numbers::install();
    let mut hands = app::hands(control, "freehold-worker")?;
    let identity = Settings::of(args.identity.as_deref())?;
    hands.errands = app::errands(&hands, &identity)?;
    let stripe = StripeSettings::of(args.stripe.as_deref())?;
    let billing = app::billing_of_worker(&hands, stripe, &identity)?;
    hands.errands = app::errands_with_billing(std::mem::take(&mut hands.errands), &billing);
    hands.cloud = app::cloud(InfraSettings::of(args.infra.as_deref())?)?;
    hands.tenant_jobs = app::tenant_jobs::<Current>(&hands);
    app::require_control(control).await?;
    app::meters::<Current>(&hands.cp).await?;
    let stop = stop_signal()?;
    let pulse = Pulse::default();
    if let (Some(addr), Some(metrics)) = (args.metrics_addr, metrics) {
        let health = WorkerHealth { pulse: pulse.clone(), draining: stop.clone() };
        app::run_worker_admin(health, addr, metrics).await?;
    }
    tracing::info!(worker = hands.worker, "working");
    let money = billing::run(billing, stop.clone());
    tokio::join!(worker::work_seen(hands, chores::ALL, stop, pulse), money);
    tracing::info!("stopped");
    Ok(())
}
