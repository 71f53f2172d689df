//! What a worker does for billing now and then. Any number of workers do it at once: each piece of work leases what it
//! holds, or is safe to do twice.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ledger::{months, relay, sampler, sealer};
use super::{Billing, access, catalogue, customers, finance, inbox, quotas, reconcile, sender};
use crate::jobs::rounds::Round;
use crate::kernel::Result;

/// A piece of work that comes again.
pub struct Regular {
    /// Names it in logs and in `worker_rounds_total`.
    pub name: &'static str,
    /// From the end of one round to the next.
    pub seconds: u64,
    /// Whether there is nothing to do in it without a Stripe.
    pub asks_stripe: bool,
    pub work: fn(Billing) -> BoxFuture<'static, Result<()>>,
}

/// All of it; each part of billing adds its own line.
pub const ALL: &[Regular] = &[
    Regular {
        name: "usage_relay",
        seconds: 1,
        asks_stripe: false,
        work: |billing| {
            Box::pin(async move {
                relay::relay(&billing.cp, &billing.admins, relay::this_worker()).await.map(drop)
            })
        },
    },
    Regular {
        name: "usage_seal",
        seconds: 15,
        asks_stripe: false,
        work: |billing| Box::pin(async move { sealer::seal(&billing.cp).await.map(drop) }),
    },
    Regular {
        name: "usage_sample",
        seconds: 300,
        asks_stripe: false,
        work: |billing| Box::pin(async move { sampler::sample(&billing.cp).await.map(drop) }),
    },
    Regular {
        name: "usage_months",
        seconds: 3_600,
        asks_stripe: false,
        work: |billing| Box::pin(async move { months::months_make(&billing.cp).await.map(drop) }),
    },
    Regular {
        name: "quota_stored",
        seconds: 60,
        asks_stripe: false,
        work: |billing| Box::pin(quotas::stored::sample(billing)),
    },
    Regular {
        name: "quota_notices",
        seconds: 30,
        asks_stripe: false,
        work: |billing| Box::pin(quotas::notices::tell(billing)),
    },
    Regular {
        name: "webhooks",
        seconds: 1,
        asks_stripe: true,
        work: |billing| Box::pin(async move { inbox::work_off(&billing).await.map(drop) }),
    },
    Regular {
        name: "webhook_sweep",
        seconds: 900,
        asks_stripe: true,
        work: |billing| Box::pin(async move { inbox::sweep(&billing).await.map(drop) }),
    },
    Regular {
        name: "webhook_watch",
        seconds: 30,
        asks_stripe: false,
        work: |billing| Box::pin(async move { inbox::watch::watch(&billing).await }),
    },
    Regular {
        name: "customers",
        seconds: 2,
        asks_stripe: true,
        work: |billing| Box::pin(async move { customers::ensure_missing(&billing).await.map(drop) }),
    },
    Regular {
        name: "customers_leave",
        seconds: 60,
        asks_stripe: true,
        work: |billing| {
            Box::pin(async move {
                customers::leave_round(&billing).await?;
                customers::return_round(&billing).await.map(drop)
            })
        },
    },
    Regular {
        name: "access",
        seconds: 30,
        asks_stripe: true,
        work: |billing| Box::pin(async move { access::round(&billing).await.map(drop) }),
    },
    Regular {
        name: "usage_send",
        seconds: 1,
        asks_stripe: true,
        work: |billing| Box::pin(async move { sender::send_due(&billing).await.map(drop) }),
    },
    Regular {
        name: "usage_settle",
        seconds: 300,
        asks_stripe: true,
        work: |billing| Box::pin(async move { sender::settle::settle_unknown(&billing).await.map(drop) }),
    },
    Regular {
        name: "catalogue",
        seconds: 60,
        asks_stripe: true,
        work: |billing| Box::pin(async move { catalogue::tend(&billing).await }),
    },
    Regular {
        name: "usage_watch",
        seconds: 60,
        asks_stripe: true,
        work: |billing| Box::pin(async move { sender::watch::undelivered(&billing).await }),
    },
    Regular {
        name: "reconcile",
        seconds: 60,
        asks_stripe: true,
        work: |billing| Box::pin(reconcile::regular::nightly(billing)),
    },
    Regular {
        name: "period_close",
        seconds: 60,
        asks_stripe: true,
        work: |billing| Box::pin(reconcile::regular::close(billing)),
    },
    Regular {
        name: "finance_watch",
        seconds: 60,
        asks_stripe: false,
        work: |billing| Box::pin(finance::standing::watch(billing)),
    },
];

/// The longest a round may take: one that hangs must not be the last.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long rounds in hand get to end once `stop` is cancelled.
const FAREWELL: Duration = Duration::from_secs(10);

/// Does all of it until `stop` is cancelled.
pub async fn run(billing: Billing, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    for regular in ALL.iter().filter(|regular| billing.settings.enabled() || !regular.asks_stripe) {
        let every = Duration::from_secs(regular.seconds);
        let round = Round { name: regular.name, every, limit: PATIENCE };
        let billing = billing.clone();
        tasks.spawn(round.again_and_again(stop.clone(), move || (regular.work)(billing.clone())));
    }
    stop.cancelled().await;
    tasks.close();
    if tokio::time::timeout(FAREWELL, tasks.wait()).await.is_err() {
        tracing::warn!("billing stops with work in hand; its leases will run out");
    }
}
