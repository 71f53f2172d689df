//! A server that may be running: what is the same for every kind of server.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::Mutex;

use super::keeper::Keeper;
use crate::kernel::Result;

/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(5);

/// The keeper of a server, while there is one.
#[derive(Debug)]
pub struct Kept(Mutex<Option<Keeper>>);

impl Kept {
    pub fn new(keeper: Keeper) -> Self {
        Self(Mutex::new(Some(keeper)))
    }

    pub async fn is_running(&self) -> bool {
        runs(&mut *self.0.lock().await)
    }

    /// Stops the server, each signal if the one before has not ended it in its time.
    pub async fn stop(&self, how: &[(Signal, Duration)]) -> Result<()> {
        match self.0.lock().await.take() {
            Some(mut keeper) => keeper.stop(how).await,
            None => Ok(()),
        }
    }

    /// Starts it, unless it runs.
    pub async fn start_again(&self, start: impl AsyncFnOnce() -> Result<Keeper>) -> Result<()> {
        let mut slot = self.0.lock().await;
        if !runs(&mut slot) {
            *slot = None;
            *slot = Some(start().await?);
        }
        Ok(())
    }

    pub async fn crash(&self) {
        if let Some(mut keeper) = self.0.lock().await.take() {
            keeper.signal_all(Signal::SIGKILL);
            keeper.wait(GONE).await;
        }
    }

    /// To every process of the server, if there are any.
    pub async fn signal_all(&self, signal: Signal) {
        if let Some(keeper) = self.0.lock().await.as_mut() {
            keeper.signal_all(signal);
        }
    }

    /// Whether nobody is left who would remove a throwaway's folder.
    pub fn is_gone(&mut self) -> bool {
        self.0.get_mut().is_none()
    }
}

fn runs(slot: &mut Option<Keeper>) -> bool {
    slot.as_mut().is_some_and(|keeper| keeper.ended().is_none())
}
