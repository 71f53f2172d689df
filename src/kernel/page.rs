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

/// Which page of a list is asked for. `C` is its cursor: what is read out of one is what [`Asked::page`] writes into the next.
#[derive(Clone, Copy, Debug)]
pub struct Asked<C> {
    limit: u32,
    /// The last row of the page before.
    pub after: Option<C>,
}

impl<C: Serialize + DeserializeOwned> Asked<C> {
    /// # Errors
    /// `invalid_fields` for a limit out of bounds; `bad_cursor`.
    pub fn of(limit: Option<u32>, cursor: Option<&str>) -> Result<Self> {
        Ok(Self { limit: self::limit(limit)?, after: cursor.map(decode).transpose()? })
    }

    /// Rows to ask the database for: one more than the page has.
    pub fn rows(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// The page, of up to that many rows.
    pub fn page<T>(&self, rows: Vec<T>, cursor: impl Fn(&T) -> C) -> Page<T> {
        Page::build(rows, self.limit, cursor)
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
    fn the_next_page_begins_where_the_last_ended() {
        let first: Asked<i32> = Asked::of(Some(2), None).unwrap();
        assert_eq!((first.rows(), first.after), (3, None));
        let page = first.page(vec![7, 8, 9], |row| *row);
        let second: Asked<i32> = Asked::of(Some(2), page.next_cursor.as_deref()).unwrap();
        assert_eq!((page.items, second.after), (vec![7, 8], Some(8)));
        assert!(Asked::<i32>::of(Some(MAX_LIMIT + 1), None).is_err());
        assert!(Asked::<i32>::of(None, Some("%%%")).is_err());
    }

    #[test]
    fn foreign_cursors_are_refused() {
        for bad in ["", "%%%", "bm9wZQ", &encode(&"text")] {
            assert_eq!(decode::<(i64, String)>(bad).unwrap_err().code(), &codes::BAD_CURSOR);
        }
    }
}
