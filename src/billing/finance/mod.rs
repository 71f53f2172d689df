//! What finance asks, and the little that finance may change: nothing here is done to a tenant's data, and every change is
//! a line in the audit log.
//!
//! | file | holds |
//! |---|---|
//! | `report` | a row for each tenant, meter and period: used, told, counted, invoiced, paid |
//! | `explain` | an invoice walked down to single facts |
//! | `preview` | the next invoice, as Stripe would make it and as our books say |
//! | `quarantine` | batches that Stripe refused or that were set aside: seen, settled |
//! | `inbox` | webhooks as they came |
//! | `lists` | batches and invoices, for export |
//! | `standing` | all of it in some numbers: gauges, the desk |
//! | `tenant` | what a tenant sees of its own use: today, this period, a forecast |
//! | `usage_days` | what all tenants together used, day by day |
//! | `csv`, `money` | files for spreadsheets; amounts as text. Pure |

pub mod csv;
pub mod explain;
pub mod inbox;
pub mod lists;
pub mod money;
pub mod preview;
pub mod quarantine;
pub mod report;
pub mod standing;
pub mod tenant;
pub mod usage_days;
