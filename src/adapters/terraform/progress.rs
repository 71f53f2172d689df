//! How far an apply is: what is done of what was planned, and what is being worked at now.

use std::collections::BTreeMap;

use super::events::{Action, Event};

/// Fed with the events of a plan and of its apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    planned: BTreeMap<String, u64>,
    done: BTreeMap<String, u64>,
    working: Vec<String>,
}

impl Progress {
    pub fn take(&mut self, event: &Event) {
        match event {
            Event::Planned { address, action } if weight(*action) > 0 => {
                self.planned.insert(address.clone(), weight(*action));
            }
            Event::Started { address, action, .. }
                if weight(*action) > 0 && !self.working.contains(address) =>
            {
                self.working.push(address.clone());
            }
            Event::Completed { address, action, .. } if weight(*action) > 0 => {
                self.working.retain(|one| one != address);
                *self.done.entry(address.clone()).or_default() += 1;
            }
            Event::Failed { address, .. } => self.working.retain(|one| one != address),
            _ => {}
        }
    }

    /// Changes made, and changes planned. A replaced resource is two: one goes, one comes.
    pub fn count(&self) -> (u64, u64) {
        let planned = self.planned.values().sum();
        // Never more than was planned of each: an apply that was resumed says some things twice.
        let done =
            self.done.iter().map(|(address, n)| (*n).min(self.planned.get(address).copied().unwrap_or(0)));
        (done.sum(), planned)
    }

    /// Addresses that are being worked at, the longest first.
    pub fn working(&self) -> &[String] {
        &self.working
    }
}

/// Reading changes nothing, and neither does doing nothing.
fn weight(action: Action) -> u64 {
    match action {
        Action::Create | Action::Update | Action::Delete | Action::Other => 1,
        Action::Replace => 2,
        Action::Read | Action::Noop | Action::Move | Action::Import => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(address: &str, action: Action) -> Event {
        Event::Planned { address: address.to_owned(), action }
    }

    fn started(address: &str, action: Action) -> Event {
        Event::Started { address: address.to_owned(), kind: String::new(), action }
    }

    fn completed(address: &str, action: Action) -> Event {
        Event::Completed { address: address.to_owned(), kind: String::new(), action, id: None, seconds: 0.0 }
    }

    fn after(events: &[Event]) -> Progress {
        let mut progress = Progress::default();
        events.iter().for_each(|event| progress.take(event));
        progress
    }

    #[test]
    fn reads_are_no_work_and_a_replacement_is_two() {
        use Action::{Create, Delete, Read, Replace};
        let begun = [planned("a", Create), planned("b", Read), planned("c", Replace)];
        assert_eq!(after(&begun).count(), (0, 3));
        let half = [&begun[..], &[completed("b", Read), completed("c", Delete)]].concat();
        assert_eq!(after(&half).count(), (1, 3));
        let all = [&half[..], &[completed("c", Create), completed("a", Create)]].concat();
        assert_eq!(after(&all).count(), (3, 3));
    }

    #[test]
    fn it_names_what_is_being_worked_at() {
        use Action::Create;
        let events = [planned("a", Create), planned("b", Create), started("a", Create), started("b", Create)];
        assert_eq!(after(&events).working(), ["a", "b"]);
        let later = [&events[..], &[completed("a", Create)]].concat();
        assert_eq!(after(&later).working(), ["b"]);
        let failed = Event::Failed { address: "b".to_owned(), action: Create };
        assert!(after(&[&later[..], &[failed]].concat()).working().is_empty());
    }

    #[test]
    fn what_is_said_twice_counts_once() {
        use Action::Create;
        let events = [planned("a", Create), completed("a", Create), completed("a", Create)];
        assert_eq!(after(&events).count(), (1, 1));
    }
}
