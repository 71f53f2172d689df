//! A provider's published keys, kept for a while.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::web::{Web, WebError};

/// A token with an unknown key is a reason to look again, at most this often: a stranger can invent key ids.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Older keys are looked up again, so that one that the provider withdrew is not believed for ever.
const OLD: Duration = Duration::from_secs(3600);

/// The cache; the lock makes many who wait ask once.
#[derive(Debug, Default)]
pub struct Keys(Mutex<Option<Kept>>);

#[derive(Clone, Debug)]
struct Kept {
    keys: Arc<JwkSet>,
    asked: Instant,
    /// When a missing key was last a reason to ask.
    again: Option<Instant>,
}

impl Keys {
    /// The keys as they are known; asked for when they are not, or old.
    pub async fn get(&self, web: &Web, url: &str) -> Result<Arc<JwkSet>, WebError> {
        let mut kept = self.0.lock().await;
        if let Some(kept) = &*kept
            && kept.asked.elapsed() < OLD
        {
            return Ok(kept.keys.clone());
        }
        ask(&mut kept, web, url).await
    }

    /// The keys after one was missing: asked for again, unless that was done a moment ago. So a provider that changes its
    /// keys is understood at once, and a stranger who invents key ids makes us ask once a minute at most.
    pub async fn look_again(&self, web: &Web, url: &str) -> Result<Arc<JwkSet>, WebError> {
        let mut kept = self.0.lock().await;
        if let Some(kept) = &*kept
            && kept.again.is_some_and(|again| again.elapsed() < AGAIN_AFTER)
        {
            return Ok(kept.keys.clone());
        }
        let keys = ask(&mut kept, web, url).await;
        if let Some(kept) = &mut *kept {
            kept.again = Some(kept.asked);
        }
        keys
    }
}

async fn ask(kept: &mut Option<Kept>, web: &Web, url: &str) -> Result<Arc<JwkSet>, WebError> {
    let asked = Instant::now();
    match (web.get_json::<JwkSet>(url, None).await, &mut *kept) {
        (Ok(keys), kept) => {
            let keys = Arc::new(keys);
            let again = kept.as_ref().and_then(|kept| kept.again);
            *kept = Some(Kept { keys: keys.clone(), asked, again });
            Ok(keys)
        }
        // A provider that is away does not make its keys wrong.
        (Err(error), Some(known)) => {
            tracing::warn!(%error, url, "a provider's keys could not be looked up; the known ones are used");
            known.asked = asked;
            Ok(known.keys.clone())
        }
        (Err(error), None) => Err(error),
    }
}
