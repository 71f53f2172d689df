//! Keyset pages: a list is ordered by one indexed expression and the id; the cursor holds the last row's two values and
//! the sort they belong to, so a page neither skips nor repeats rows when others come and go.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::fields::in_calendar;
use crate::kernel::{Error, Result, codes, page};

/// What a list is ordered by. `by` is spelled as in the index that serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub by: &'static str,
    pub kind: Kind,
    pub descending: bool,
}

/// What the ordering expression yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `timestamptz`; `infinity` stands for "never".
    Time,
    /// `smallint`.
    Rank,
    /// `text`.
    Name,
}

impl Order {
    pub const fn asc(by: &'static str, kind: Kind) -> Self {
        Self { by, kind, descending: false }
    }

    pub const fn desc(by: &'static str, kind: Kind) -> Self {
        Self { by, kind, descending: true }
    }
}

/// A row's value of the ordering expression, as a cursor keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Key {
    /// Microseconds since 1970, or a rank.
    Number(i64),
    Text(String),
    /// A time that never comes.
    Never,
}

impl From<DateTime<Utc>> for Key {
    fn from(at: DateTime<Utc>) -> Self {
        Self::Number(at.timestamp_micros())
    }
}

impl From<Option<DateTime<Utc>>> for Key {
    fn from(at: Option<DateTime<Utc>>) -> Self {
        at.map_or(Self::Never, Self::from)
    }
}

/// Where a page starts: after this row.
pub type After<I> = Option<(Key, I)>;

/// Reads the caller's cursor. The id's prefix tells lists apart, the sort its orders.
///
/// # Errors
/// `bad_cursor` for one of another list or sort.
pub fn after<S, I>(cursor: Option<&str>, sort: S) -> Result<After<I>>
where
    S: DeserializeOwned + PartialEq,
    I: DeserializeOwned,
{
    let Some(cursor) = cursor else { return Ok(None) };
    let (made_for, key, id): (S, Key, I) = page::decode(cursor)?;
    if made_for == sort { Ok(Some((key, id))) } else { Err(Error::new(&codes::BAD_CURSOR)) }
}

/// Appends the condition that starts after a row, the order, and a limit of one row more than the page holds.
///
/// # Errors
/// `bad_cursor` when the key is not one of this order.
pub fn push_page(
    query: &mut QueryBuilder<Postgres>,
    order: Order,
    after: Option<(Key, Uuid)>,
    limit: u32,
) -> Result<()> {
    if let Some((key, id)) = after {
        let side = if order.descending { "<" } else { ">" };
        query.push(format_args!(" AND ({}, id) {side} (", order.by));
        push_key(query, order.kind, key)?;
        query.push(", ").push_bind(id).push(")");
    }
    let way = if order.descending { "DESC" } else { "ASC" };
    query.push(format_args!(" ORDER BY {} {way}, id {way} LIMIT ", order.by));
    query.push_bind(i64::from(limit) + 1);
    Ok(())
}

fn push_key(query: &mut QueryBuilder<Postgres>, kind: Kind, key: Key) -> Result<()> {
    let bad = || Error::new(&codes::BAD_CURSOR);
    match (kind, key) {
        (Kind::Time, Key::Number(micros)) => {
            let at = DateTime::from_timestamp_micros(micros).filter(|at| in_calendar(*at)).ok_or_else(bad)?;
            query.push_bind(at)
        }
        (Kind::Time, Key::Never) => query.push("'infinity'::timestamptz"),
        (Kind::Rank, Key::Number(rank)) => query.push_bind(i16::try_from(rank).map_err(|_| bad())?),
        (Kind::Name, Key::Text(name)) if !name.contains('\0') => query.push_bind(name),
        _ => return Err(bad()),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUE: Order = Order::desc("due_at", Kind::Time);

    #[test]
    fn a_cursor_serves_only_its_own_list_and_sort() {
        let cursor = page::encode(&("-due_at", Key::Never, 7_u32));
        assert_eq!(after::<String, u32>(Some(&cursor), "-due_at".into()).unwrap(), Some((Key::Never, 7)));
        assert_eq!(after::<String, u32>(None, "-due_at".into()).unwrap(), None);
        for refused in [
            after::<String, u32>(Some(&cursor), "due_at".into()).map(drop),
            after::<String, String>(Some(&cursor), "-due_at".into()).map(drop),
            after::<String, u32>(Some("x"), "-due_at".into()).map(drop),
        ] {
            assert!(refused.unwrap_err().is(&codes::BAD_CURSOR));
        }
    }

    #[test]
    fn the_statement_follows_the_order() {
        let mut query = QueryBuilder::new("SELECT 1 WHERE true");
        push_page(&mut query, DUE, Some((Key::Number(0), Uuid::nil())), 20).unwrap();
        let sql = query.into_string();
        assert_eq!(
            sql,
            "SELECT 1 WHERE true AND (due_at, id) < ($1, $2) ORDER BY due_at DESC, id DESC LIMIT $3"
        );
    }

    #[test]
    fn forged_keys_are_refused_before_postgresql_sees_them() {
        for (kind, key) in [
            (Kind::Time, Key::Number(i64::MAX)),
            (Kind::Time, Key::Text("now".into())),
            (Kind::Rank, Key::Number(1 << 20)),
            (Kind::Rank, Key::Never),
            (Kind::Name, Key::Text("a\0".into())),
        ] {
            let mut query = QueryBuilder::new("");
            let order = Order::asc("x", kind);
            assert!(
                push_page(&mut query, order, Some((key, Uuid::nil())), 1).unwrap_err().is(&codes::BAD_CURSOR)
            );
        }
    }
}
