//! What an apply has made, kept outside Terraform's state.
//!
//! A Terraform that is killed in mid-apply loses all it has made so far: with a remote state nothing is written before the
//! end. So each resource that it begins, and each that it reports as made, is put down in the state database at once. A
//! later run imports what the state does not have; what was only begun is looked for in the cloud (`in_flight`).

use std::collections::{BTreeMap, BTreeSet};

use super::events::{Action, Event};

/// A resource that was begun, and perhaps made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub address: String,
    /// `aws_iam_role`
    pub kind: String,
    /// What the provider knows it by. None while it was only begun: it may be there or not.
    pub id: Option<String>,
}

/// What an event means for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Begun {
        address: String,
        kind: String,
    },
    Made(Entry),
    /// The address. Also of what the cloud refused to make: it must not be taken for ours later. But not of what an earlier
    /// run had begun: that may be in its own way, and the cloud's lists may know of it later only.
    Gone(String),
}

impl Note {
    fn address(&self) -> &str {
        match self {
            Self::Begun { address, .. } | Self::Gone(address) => address,
            Self::Made(entry) => &entry.address,
        }
    }
}

/// Turns the events of one run into notes.
#[derive(Debug, Default)]
pub struct Notes {
    made: BTreeSet<String>,
    /// Begun by earlier runs, and not found since.
    earlier: BTreeSet<String>,
}

impl Notes {
    /// Of a run that came after others had begun these.
    pub fn beside(earlier: BTreeSet<String>) -> Self {
        Self { earlier, ..Self::default() }
    }

    pub fn take(&mut self, event: &Event) -> Option<Note> {
        match event {
            Event::Started { address, kind, action: Action::Create, .. } => {
                Some(Note::Begun { address: address.clone(), kind: kind.clone() })
            }
            Event::Completed { address, kind, action: Action::Create, id: Some(id), .. }
                if !id.is_empty() =>
            {
                self.made.insert(address.clone());
                let id = Some(id.clone());
                Some(Note::Made(Entry { address: address.clone(), kind: kind.clone(), id }))
            }
            Event::Failed { address, action: Action::Create } if !self.earlier.contains(address) => {
                Some(Note::Gone(address.clone()))
            }
            // After the new one was made, it is the old one that goes.
            Event::Completed { address, action: Action::Delete, .. } if !self.made.contains(address) => {
                Some(Note::Gone(address.clone()))
            }
            _ => None,
        }
    }
}

/// The last note on each address, by an event file that an earlier run has left, which came after others had begun these.
pub fn replay<'a>(events: impl IntoIterator<Item = &'a Event>, earlier: BTreeSet<String>) -> Vec<Note> {
    let mut notes = Notes::beside(earlier);
    let mut last = BTreeMap::new();
    for note in events.into_iter().filter_map(|event| notes.take(event)) {
        last.insert(note.address().to_owned(), note);
    }
    last.into_values().collect()
}

/// What the journal has and the state has not.
pub fn missing(journal: &[Entry], in_state: &BTreeSet<String>) -> Vec<Entry> {
    journal.iter().filter(|entry| !in_state.contains(&entry.address)).cloned().collect()
}

/// What `terraform import` wants of a resource that was made, where that is not its id. None for what is not imported.
pub fn import_id(kind: &str, id: &str, server_name: &str) -> Option<String> {
    match kind {
        // Known by `db-…`, imported by its name; the roots give it a fixed one.
        "aws_db_instance" => Some(server_name.to_owned()),
        // Not to be imported: a write-only value is not there to be read. It is set again.
        "aws_secretsmanager_secret_version" | "terraform_data" => None,
        _ => Some(id.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(address: &str) -> Event {
        Event::Started {
            address: address.to_owned(),
            kind: "aws_iam_role".to_owned(),
            action: Action::Create,
        }
    }

    fn completed(address: &str, action: Action, id: Option<&str>) -> Event {
        Event::Completed {
            address: address.to_owned(),
            kind: "aws_iam_role".to_owned(),
            action,
            id: id.map(str::to_owned),
            seconds: 1.0,
        }
    }

    fn entry(address: &str, id: Option<&str>) -> Entry {
        Entry { address: address.to_owned(), kind: "aws_iam_role".to_owned(), id: id.map(str::to_owned) }
    }

    fn played(events: &[Event]) -> Vec<Note> {
        replay(events, BTreeSet::new())
    }

    #[test]
    fn what_was_made_or_begun_is_remembered() {
        let events = [
            started("a"),
            completed("a", Action::Create, Some("1")),
            started("b"),
            completed("c", Action::Update, Some("3")),
            completed("d", Action::Delete, None),
        ];
        let begun = Note::Begun { address: "b".to_owned(), kind: "aws_iam_role".to_owned() };
        assert_eq!(played(&events), [Note::Made(entry("a", Some("1"))), begun, Note::Gone("d".to_owned())]);
    }

    /// Somebody else's, of the same name: the next run must not take it over.
    ///
    /// Shown to fail: without the arm for `Failed`.
    #[test]
    fn what_the_cloud_refused_to_make_is_not_ours() {
        let refused = Event::Failed { address: "a".to_owned(), action: Action::Create };
        assert_eq!(played(&[started("a"), refused.clone()]), [Note::Gone("a".to_owned())]);
        // Begun by a run that was killed: it may be that one's, which the cloud's lists did not show yet. It is looked for again.
        let begun = Note::Begun { address: "a".to_owned(), kind: "aws_iam_role".to_owned() };
        assert_eq!(replay(&[started("a"), refused], BTreeSet::from(["a".to_owned()])), [begun]);
    }

    #[test]
    fn a_replaced_resource_is_the_new_one() {
        let made = [Note::Made(entry("a", Some("2")))];
        let old_first =
            [completed("a", Action::Delete, None), started("a"), completed("a", Action::Create, Some("2"))];
        assert_eq!(played(&old_first), made);
        let new_first =
            [started("a"), completed("a", Action::Create, Some("2")), completed("a", Action::Delete, None)];
        assert_eq!(played(&new_first), made);
    }

    #[test]
    fn only_what_the_state_has_not_is_taken_up() {
        let journal = [entry("a", Some("1")), entry("b", None)];
        let state = BTreeSet::from(["a".to_owned()]);
        assert_eq!(missing(&journal, &state), [journal[1].clone()]);
    }

    #[test]
    fn a_database_server_is_imported_by_its_name() {
        assert_eq!(
            import_id("aws_db_instance", "db-ABC", "dev-shard-eu-1").as_deref(),
            Some("dev-shard-eu-1")
        );
        assert_eq!(import_id("aws_secretsmanager_secret_version", "a|b", ""), None);
        assert_eq!(import_id("aws_iam_role", "dev-t-1", "").as_deref(), Some("dev-t-1"));
    }
}
