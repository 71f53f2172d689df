//! Lists that come in pages.

use clap::Args;

use crate::kernel::Result;
use crate::kernel::page::{MAX_LIMIT, Page};

#[derive(Clone, Debug, Default, Args)]
pub struct Paging {
    /// The number of rows to show, 1 to 100 (default 20)
    #[arg(long, value_name = "N", conflicts_with = "all")]
    pub limit: Option<u32>,
    /// Continue after an earlier page
    #[arg(long, value_name = "CURSOR", conflicts_with = "all")]
    pub cursor: Option<String>,
    /// All rows, however many
    #[arg(long)]
    pub all: bool,
}

impl Paging {
    /// One page, or all of them as one.
    pub async fn collect<T>(
        &self,
        fetch: impl AsyncFn(Option<u32>, Option<String>) -> Result<Page<T>>,
    ) -> Result<Page<T>> {
        if !self.all {
            return fetch(self.limit, self.cursor.clone()).await;
        }
        let mut items = Vec::new();
        let mut cursor = None;
        loop {
            let page = fetch(Some(MAX_LIMIT), cursor).await?;
            items.extend(page.items);
            match page.next_cursor {
                None => return Ok(Page::whole(items)),
                next => cursor = next,
            }
        }
    }
}
