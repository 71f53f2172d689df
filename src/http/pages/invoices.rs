//! Invoices, as pages show them.

use super::account::day;
use crate::billing::customers::KeptInvoice;
use crate::billing::finance::money::amount;

/// Invoices on a page.
pub(super) const MOST: i64 = 12;

/// An invoice, as a page shows it.
pub(super) struct Invoice {
    pub name: String,
    pub date: String,
    pub total: String,
    pub status: String,
    pub url: Option<String>,
}

impl From<KeptInvoice> for Invoice {
    fn from(kept: KeptInvoice) -> Self {
        Self {
            name: kept.number.unwrap_or(kept.id),
            date: day(kept.created_at),
            total: amount(kept.total_minor, &kept.currency),
            status: kept.status,
            // Only an address of theirs is worth a link.
            url: kept
                .hosted_url
                .filter(|url| url.starts_with("https://") || url.starts_with("http://127.0.0.1")),
        }
    }
}
