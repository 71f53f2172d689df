//! The kinds of run there are, and carrying one out or waiting for it.

use std::time::Duration;

use tokio::time::Instant;

use super::access::{DELETE, PURGE, RESUME, SUSPEND, UNDELETE};
use super::infra::dedicated::DEDICATED;
use super::infra::resources::{RESOURCES, is_for_another};
use super::provisioning::{PROVISION, SHARD_PREPARE};
use super::{ControlPlane, Hands};
use crate::jobs::feed::RunFeed;
use crate::jobs::run::{Run, RunState, run_by_id};
use crate::jobs::saga::{self, Held, Kind, Pace};
use crate::kernel::ids::RunId;
use crate::kernel::{Error, Result, codes};

/// How long a follower of a run that hears its news waits before it looks for itself.
const HEARING_PAUSE: Duration = Duration::from_millis(500);

/// Every kind of run. A new kind is added here and nowhere else.
pub static KINDS: [&Kind<Hands>; 9] =
    [&PROVISION, &SHARD_PREPARE, &SUSPEND, &RESUME, &DELETE, &UNDELETE, &PURGE, &RESOURCES, &DEDICATED];

/// The names of the kinds of this pace that a process can carry out.
pub fn names_of(pace: Pace, cloud: bool) -> Vec<&'static str> {
    let needs_cloud = |kind: &Kind<Hands>| [RESOURCES.name, DEDICATED.name].contains(&kind.name);
    let mine = KINDS.iter().filter(|kind| kind.pace == pace && (cloud || !needs_cloud(kind)));
    mine.map(|kind| kind.name).collect()
}

/// Whether there is something to take back in a run of this kind.
pub fn can_be_undone(kind: &str) -> bool {
    KINDS.iter().any(|known| known.name == kind && known.steps.iter().any(|step| step.undo.is_some()))
}

/// Works on a run that this process holds.
pub async fn drive(hands: &Hands, held: &Held) -> Result<RunState> {
    let kind = KINDS
        .iter()
        .find(|kind| kind.name == held.kind)
        .ok_or_else(|| Error::internal(format!("this build knows no run of kind {}", held.kind)))?;
    saga::drive(&hands.cp.db, hands, kind, held).await
}

/// Carries a run out here and now, or follows it when a worker was faster. `moved` is told of each change.
pub async fn carry_out(
    hands: &Hands,
    id: RunId,
    within: Duration,
    mut moved: impl FnMut(&Run),
) -> Result<Run> {
    let deadline = Instant::now() + within;
    let another = is_for_another(hands, id).await?;
    loop {
        if !another
            && let Some(held) = saga::lease(&hands.cp.db, &hands.worker, Some(id)).await?
            && let Err(error) = drive(hands, &held).await
        {
            tracing::debug!(run = %id, ?error, "this attempt ended early");
        }
        let run = run_by_id(&mut *hands.cp.db.acquire().await?, id).await?;
        moved(&run);
        if !run.state.is_open() || Instant::now() >= deadline {
            return Ok(run);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for a run that a worker carries out. Returns it as it is when the time is over.
pub async fn wait(cp: &ControlPlane, feed: &RunFeed, id: RunId, within: Duration) -> Result<Run> {
    let deadline = Instant::now() + within;
    let mut news = feed.subscribe();
    // While the feed does not hear yet, look often at first: most runs take some milliseconds. Once it does, a look is
    // only for what got lost on the way: with many who wait, their looks would be most of the control database's work.
    let mut pause = Duration::from_millis(8);
    loop {
        let hearing = news.hearing();
        let run = run_by_id(&mut *cp.db.acquire().await?, id).await?;
        if !run.state.is_open() || Instant::now() >= deadline {
            return Ok(run);
        }
        let longest = if hearing { HEARING_PAUSE } else { pause };
        news.of(id, deadline.min(Instant::now() + longest)).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(250));
    }
}

/// Nothing for a run that did what it was for.
///
/// # Errors
/// What made it fail, as far as its record tells, for one that was undone or is stuck.
pub fn succeeded(run: &Run) -> Result<()> {
    if !matches!(run.state, RunState::Undone | RunState::Stuck) {
        return Ok(());
    }
    let (name, detail) = run.error.as_deref().and_then(|error| error.split_once(": ")).unwrap_or(("", ""));
    let code = codes::ALL.iter().copied().find(|code| code.name == name).unwrap_or(&codes::INTERNAL);
    let error = match detail {
        "" => Error::new(code),
        detail => Error::new(code).detail(detail.to_owned()),
    };
    Err(match run.state {
        RunState::Stuck => error.hint(format!("when the cause is gone: freehold run resume {}", run.id)),
        _ => error.hint(format!("nothing was left behind; see: freehold run show {}", run.id)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::run::Step;

    fn run(state: RunState, error: Option<&str>) -> Run {
        Run {
            id: RunId::new(),
            kind: "provision".to_owned(),
            subject: String::new(),
            tenant: None,
            state,
            error: error.map(str::to_owned),
            attempts: 1,
            created_at: chrono::DateTime::UNIX_EPOCH,
            finished_at: None,
            progress: None,
            steps: Vec::<Step>::new(),
        }
    }

    #[test]
    fn a_failed_run_gives_its_error_back() {
        let failed = run(RunState::Undone, Some("shard_unavailable: no route: to host"));
        let error = succeeded(&failed).unwrap_err();
        assert!(error.is(&codes::SHARD_UNAVAILABLE));
        assert_eq!(error.public_detail(), Some("no route: to host"));
        for odd in [None, Some("words only"), Some("no_such_code: why")] {
            assert!(succeeded(&run(RunState::Stuck, odd)).unwrap_err().is(&codes::INTERNAL));
        }
        // A run that failed at first and then worked has worked.
        assert!(succeeded(&run(RunState::Done, Some("shard_unavailable: once"))).is_ok());
    }
}
