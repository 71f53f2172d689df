//! When keys were last used, gathered in memory and written together.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use sqlx::PgPool;

use super::load;
use crate::kernel::ids::ApiKeyId;

/// More notes than this are dropped, not queued: the time of last use is a convenience.
const MOST: usize = 10_000;

#[derive(Default)]
pub struct Notes(Mutex<HashMap<ApiKeyId, DateTime<Utc>>>);

impl Notes {
    pub fn add(&self, key: ApiKeyId, at: DateTime<Utc>) {
        let mut notes = self.0.lock();
        if notes.len() < MOST {
            notes.insert(key, at);
        }
    }

    /// Writes what was gathered. A failure loses the notes, on purpose: the next use is noted again.
    pub async fn write(&self, db: &PgPool) {
        let notes = std::mem::take(&mut *self.0.lock());
        if notes.is_empty() {
            return;
        }
        let notes: Vec<_> = notes.into_iter().collect();
        if let Err(error) = load::keys_used(db, &notes).await {
            tracing::debug!(%error, keys = notes.len(), "the last use of some keys was not written");
        }
    }
}
