//! What an apply has made, kept outside Terraform's state.
//!
//! A Terraform that is killed in mid-apply loses all it has made so far: with a remote state nothing is written before the
//! end. So each resource that it reports as made is put down in the state database at once, and a later run imports what
//! the state does not have.

use std::collections::{BTreeMap, BTreeSet};

use super::events::{Action, Event};

/// A resource that was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub address: String,
    /// `aws_iam_role`
    pub kind: String,
    /// What the provider knows it by.
    pub id: String,
}

/// What an event means for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    Made(Entry),
    /// The address.
    Gone(String),
}

/// The note that an event asks for.
pub fn note(event: &Event) -> Option<Note> {
    match event {
        Event::Completed { address, kind, action: Action::Create, id: Some(id), .. } if !id.is_empty() => {
            Some(Note::Made(Entry { address: address.clone(), kind: kind.clone(), id: id.clone() }))
        }
        Event::Completed { address, action: Action::Delete, .. } => Some(Note::Gone(address.clone())),
        _ => None,
    }
}

/// What was made and is still there, by an event file that an earlier run has left.
pub fn replay<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<Note> {
    let mut last = BTreeMap::new();
    for note in events.into_iter().filter_map(note) {
        let address = match &note {
            Note::Made(entry) => entry.address.clone(),
            Note::Gone(address) => address.clone(),
        };
        last.insert(address, note);
    }
    last.into_values().collect()
}

/// What to import: what the journal has and the state has not.
pub fn missing(journal: &[Entry], in_state: &BTreeSet<String>) -> Vec<Entry> {
    journal.iter().filter(|entry| !in_state.contains(&entry.address)).cloned().collect()
}

/// The id that `terraform import` wants, where that is not the id that the resource has.
pub fn import_id(entry: &Entry, deterministic: &str) -> Option<String> {
    match entry.kind.as_str() {
        // Known by `db-…`, imported by its name; the roots give it a fixed one.
        "aws_db_instance" => Some(deterministic.to_owned()),
        // Made of two ids and not to be imported at all: a write-only value is not there to be read. It is set again.
        "aws_secretsmanager_secret_version" | "terraform_data" => None,
        _ => Some(entry.id.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(address: &str, action: Action, id: Option<&str>) -> Event {
        Event::Completed {
            address: address.to_owned(),
            kind: "aws_iam_role".to_owned(),
            action,
            id: id.map(str::to_owned),
            seconds: 1.0,
        }
    }

    fn entry(address: &str, kind: &str, id: &str) -> Entry {
        Entry { address: address.to_owned(), kind: kind.to_owned(), id: id.to_owned() }
    }

    #[test]
    fn what_was_made_and_not_removed_is_remembered() {
        let events = [
            completed("a", Action::Create, Some("1")),
            completed("b", Action::Create, Some("2")),
            completed("c", Action::Update, Some("3")),
            completed("d", Action::Create, None),
            completed("b", Action::Delete, None),
        ];
        let expected = vec![Note::Made(entry("a", "aws_iam_role", "1")), Note::Gone("b".to_owned())];
        assert_eq!(replay(&events), expected);
    }

    #[test]
    fn a_replaced_resource_is_the_new_one() {
        let events = [
            completed("a", Action::Create, Some("1")),
            completed("a", Action::Delete, None),
            completed("a", Action::Create, Some("2")),
        ];
        assert_eq!(replay(&events), vec![Note::Made(entry("a", "aws_iam_role", "2"))]);
    }

    #[test]
    fn only_what_the_state_has_not_is_imported() {
        let journal = [entry("a", "aws_iam_role", "1"), entry("b", "aws_iam_role", "2")];
        let state = BTreeSet::from(["a".to_owned()]);
        assert_eq!(missing(&journal, &state), vec![journal[1].clone()]);
    }

    #[test]
    fn a_database_server_is_imported_by_its_name() {
        let server = entry("x", "aws_db_instance", "db-ABC");
        assert_eq!(import_id(&server, "dev-shard-eu-1").as_deref(), Some("dev-shard-eu-1"));
        assert_eq!(import_id(&entry("x", "aws_secretsmanager_secret_version", "a|b"), ""), None);
        assert_eq!(import_id(&entry("x", "aws_iam_role", "dev-t-1"), "").as_deref(), Some("dev-t-1"));
    }
}
