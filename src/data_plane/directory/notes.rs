//! When keys and sessions were last used, gathered in memory and written together.

use std::collections::HashMap;
use std::hash::Hash;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use sqlx::PgPool;

use super::{load, person};
use crate::kernel::ids::{ApiKeyId, SessionId};

/// More notes than this are dropped, not queued: the time of last use is a convenience.
const MOST: usize = 10_000;

type Times<Id> = Mutex<HashMap<Id, DateTime<Utc>>>;

#[derive(Default)]
pub struct Notes {
    keys: Times<ApiKeyId>,
    sessions: Times<SessionId>,
}

impl Notes {
    pub fn add(&self, key: ApiKeyId, at: DateTime<Utc>) {
        note(&self.keys, key, at);
    }

    pub fn seen(&self, session: SessionId, at: DateTime<Utc>) {
        note(&self.sessions, session, at);
    }

    /// Writes what was gathered. A failure loses the notes, on purpose: the next use is noted again.
    pub async fn write(&self, db: &PgPool) {
        let (keys, sessions) = (take(&self.keys), take(&self.sessions));
        let mut outcome = Ok(());
        if !keys.is_empty() {
            outcome = load::keys_used(db, &keys).await;
        }
        if !sessions.is_empty() {
            outcome = outcome.and(person::sessions_seen(db, &sessions).await);
        }
        if let Err(error) = outcome {
            tracing::debug!(%error, "the last use of some keys or sessions was not written");
        }
    }
}

fn note<Id: Eq + Hash>(times: &Times<Id>, id: Id, at: DateTime<Utc>) {
    let mut times = times.lock();
    if times.len() < MOST {
        times.insert(id, at);
    }
}

fn take<Id>(times: &Times<Id>) -> Vec<(Id, DateTime<Utc>)> {
    std::mem::take(&mut *times.lock()).into_iter().collect()
}
