//! What became of each write, as its client knows it, and as the shards know it.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::Serialize;

use super::stage::Stage;

/// Writes that were acknowledged, by tenant (its number) and title. Everyone else's fate is not known to the client.
#[derive(Default)]
pub struct Books(Mutex<Vec<(usize, String)>>);

/// The books beside the shards.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Audit {
    pub acknowledged: usize,
    /// Acknowledged, and not there.
    pub lost: usize,
    /// There more than once: somebody repeated it.
    pub doubled: usize,
    /// A task without its line of activity, or the other way round.
    pub half: usize,
    /// There, and never acknowledged: the answer was lost, the effect was not.
    pub unacknowledged: usize,
}

impl Books {
    pub fn acknowledged(&self, tenant: usize, title: String) {
        self.0.lock().push((tenant, title));
    }

    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Looks at every tenant's rows.
    ///
    /// # Panics
    /// When a shard does not answer.
    pub async fn audit(&self, stage: &Stage) -> Audit {
        let known = self.0.lock().clone();
        let mut audit = Audit { acknowledged: known.len(), ..Audit::default() };
        for (number, tenant) in stage.tenants.iter().enumerate() {
            let (titles, half) = tenant.on_the_shard(&stage.world).await;
            audit.half += half;
            let mut there: HashMap<&str, usize> = HashMap::new();
            for title in &titles {
                *there.entry(title).or_default() += 1;
            }
            audit.doubled += there.values().filter(|times| **times > 1).count();
            let mine = known.iter().filter(|(owner, _)| *owner == number);
            let found = mine.clone().filter(|(_, title)| there.contains_key(title.as_str())).count();
            audit.lost += mine.count() - found;
            audit.unacknowledged += there.len() - found;
        }
        audit
    }
}
