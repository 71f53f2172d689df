//! What a worker does for identity now and then.

use super::{erasure, operators, sessions, signing, support, throttle, tries};
use crate::control_plane::worker::Chore;

/// For [`crate::control_plane::worker::work_with`].
pub const ALL: &[Chore] = &[
    Chore {
        name: "signing_keys",
        seconds: 60,
        repair: |hands| Box::pin(async move { signing::signing_key_tend(&hands.cp, &hands.master).await }),
    },
    Chore {
        name: "support_expire",
        seconds: 30,
        repair: |hands| Box::pin(async move { support::support_expire(&hands.cp).await }),
    },
    Chore {
        name: "erasures",
        seconds: 60,
        repair: |hands| Box::pin(async move { erasure::remind(&hands.cp).await }),
    },
    Chore {
        name: "session_sweep",
        seconds: 600,
        repair: |hands| {
            Box::pin(async move {
                let mut control = hands.cp.db.acquire().await?;
                operators::sweep(&mut control, hands.cp.clock.now()).await?;
                throttle::sweep(&mut control, hands.cp.clock.now()).await?;
                tries::sweep(&mut control, hands.cp.clock.now()).await?;
                sessions::sweep(&mut control, hands.cp.clock.now()).await
            })
        },
    },
];
