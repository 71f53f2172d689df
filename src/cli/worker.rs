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
#[command(after_help = "EXAMPLES:
  FREEHOLD_CONTROL_URL=postgres://… FREEHOLD_MASTER_KEY=… freehold worker
  freehold worker --metrics-addr 127.0.0.1:9091   # /metrics and /health/ready for the monitoring

Any number of workers may run: each run and job is held by one at a time, and taken over 10 seconds after its worker
falls silent. The worker reads the shards' admin DSNs from where each shard's reference says (env:NAME, file:/path).")]
pub struct WorkerArgs {
    /// How mail is sent: the servers' TOML file. Without it invitations are not delivered
    #[arg(long, env = "FREEHOLD_IDENTITY", value_name = "FILE")]
    pub identity: Option<PathBuf>,

    /// What is provisioned in a cloud, and how: a TOML file. Without it nothing is
    #[arg(long, env = "FREEHOLD_INFRA", value_name = "FILE")]
    pub infra: Option<PathBuf>,

    /// How Stripe is reached: the servers' TOML file. Without it usage is recorded and nobody is billed
    #[arg(long, env = "FREEHOLD_STRIPE", value_name = "FILE")]
    pub stripe: Option<PathBuf>,

    /// Answer /metrics and the health pages on this address, for the monitoring alone. Without it there is no listener
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
