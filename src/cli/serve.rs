//! `freehold serve`: answers requests.

use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::app::{self, Parts, Server};
use crate::config::{ControlConfig, ServeConfig};
use crate::http::serve::{self, ServeOptions};
use crate::kernel::{Error, Result};
use crate::product::Current;
use crate::telemetry::{logs, numbers};

/// Answer tenants' and operators' requests
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  FREEHOLD_CONTROL_URL=postgres://… FREEHOLD_MASTER_KEY=… freehold serve --http-addr 0.0.0.0:8080
  freehold serve --metrics-addr 127.0.0.1:9090   # /metrics for monitoring

On SIGTERM or Ctrl-C, /health/ready says no at once, requests in flight finish, and the process ends.")]
pub struct ServeArgs {
    #[command(flatten)]
    pub serve: ServeConfig,
}

/// Serves until a stop signal.
pub async fn run(control: &ControlConfig, args: &ServeArgs) -> Result<()> {
    start_logs(logs::LogFormat::Json)?;
    let metrics = numbers::install();
    let cp = app::control_plane::<Current>(control, "freehold-serve")?;
    app::require_control(control).await?;
    let identity = args.serve.identity()?;
    let stripe = args.serve.stripe()?;
    let draining = stop_signal()?;
    let parts = Parts { draining, identity, stripe, ..Parts::default() };
    let server = app::server::<Current>(cp, control.master_key()?, &args.serve, parts)?;
    let listener = serve::bind(args.serve.http_addr).await?;
    if let (Some(addr), Some(metrics)) = (args.serve.metrics_addr, metrics) {
        Server::run_admin(server.http.clone(), addr, metrics).await?;
    }
    tracing::info!(addr = %listener.local_addr().map_err(Error::internal)?, "serving");
    server.run(listener, options(&args.serve)).await;
    tracing::info!("stopped");
    Ok(())
}

pub fn options(config: &ServeConfig) -> ServeOptions {
    let connections = serve::connections_within(serve::raise_descriptors());
    ServeOptions { grace: config.grace(), drain: config.drain(), connections, ..ServeOptions::default() }
}

pub fn start_logs(format: logs::LogFormat) -> Result<()> {
    logs::init(format, None).map_err(Error::internal)
}

/// A token that SIGTERM or Ctrl-C cancels.
pub fn stop_signal() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::internal)?;
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}
