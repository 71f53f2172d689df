//! Cursor pagination: the cursor names the last row seen, so a page neither skips nor repeats when rows come and go.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Error, Result, codes};

/// Rows in a page when the caller does not say.
pub const DEFAULT_LIMIT: u32 = 20;
/// The most rows a page may have.
pub const MAX_LIMIT: u32 = 100;

/// One page of a list.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Pass as `cursor` for the next page; `null` on the last one.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A list that always comes whole, in the shape that all lists have.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }

    /// Builds a page from up to `limit + 1` rows: the extra row only tells that there is more.
    pub fn build<C: Serialize>(mut rows: Vec<T>, limit: u32, cursor: impl Fn(&T) -> C) -> Self {
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next_cursor = more.then(|| rows.last().map(|row| encode(&cursor(row)))).flatten();
        Self { items: rows, next_cursor }
    }

    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(f).collect(), next_cursor: self.next_cursor }
    }
}

pub fn encode<C: Serialize>(cursor: &C) -> String {
    // A cursor is a tuple of plain values: it always serialises.
    BASE64URL_NOPAD.encode(&serde_json::to_vec(cursor).unwrap_or_default())
}

/// Reads a cursor made by [`encode`] for the same list and sort.
///
/// # Errors
/// `bad_cursor` when it is of another list, another sort, or not ours at all.
pub fn decode<C: DeserializeOwned>(cursor: &str) -> Result<C> {
    let bad = || Error::new(&codes::BAD_CURSOR);
    if cursor.len() > 2_000 {
        return Err(bad());
    }
    let bytes = BASE64URL_NOPAD.decode(cursor.as_bytes()).map_err(|_| bad())?;
    serde_json::from_slice(&bytes).map_err(|_| bad())
}

/// The rows to return: the caller's wish within `1..=MAX_LIMIT`.
pub fn limit(wish: Option<u32>) -> Result<u32> {
    match wish {
        None => Ok(DEFAULT_LIMIT),
        Some(n) if (1..=MAX_LIMIT).contains(&n) => Ok(n),
        Some(_) => Err(Error::field("limit", format!("must be between 1 and {MAX_LIMIT}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_only_given_when_there_is_more() {
        let page = Page::build(vec![1, 2, 3], 3, |n| *n);
        assert_eq!((page.items.len(), page.next_cursor), (3, None));
        let page = Page::build(vec![1, 2, 3, 4], 3, |n| *n);
        assert_eq!(page.items, [1, 2, 3]);
        assert_eq!(decode::<i32>(&page.next_cursor.unwrap()).unwrap(), 3);
    }

    #[test]
    fn foreign_cursors_are_refused() {
        for bad in ["", "%%%", "bm9wZQ", &encode(&"text")] {
            assert_eq!(decode::<(i64, String)>(bad).unwrap_err().code(), &codes::BAD_CURSOR);
        }
    }
}
