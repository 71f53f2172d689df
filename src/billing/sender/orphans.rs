//! What was sent for a customer that somebody deleted at Stripe. Stripe counts nothing for it any more, and bills nothing: with
//! the customer went its subscription. So what may have arrived there is sent again, as another event, for whoever is the tenant's
//! customer by then.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::decide;
use crate::billing::ledger::finals::{DRAFT_FOR, is_final};
use crate::billing::stripe::{Stripe, Trouble};
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result};

/// Whether Stripe does not have this customer any more, for an error that says that it does not know something.
///
/// # Errors
/// What Stripe says when it is asked about the customer.
pub async fn is_gone(stripe: &Stripe, customer: &str, error: &Error) -> Result<bool> {
    if !error.cause::<Trouble>().is_some_and(Trouble::is_missing) {
        return Ok(false);
    }
    match stripe.customer(customer).await {
        Ok(customer) => Ok(customer.deleted),
        Err(trouble) if trouble.is_missing() => Ok(true),
        Err(trouble) => Err(trouble.into()),
    }
}

/// Puts batches that were told for `gone` back into the queue, and gives their ids. Not before the tenant has another customer;
/// nor what an invoice that is final may have billed, nor what Stripe would refuse by now.
pub async fn send_again(
    conn: &mut PgConnection,
    caller: &Caller,
    tenant: TenantId,
    (gone, batches): (&str, &[Uuid]),
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>> {
    let again: Vec<(Uuid, String, i64)> = sqlx::query_as(concat!(
        "UPDATE usage_batch b SET state = 'ready', first_sent_at = NULL, salt = b.salt + 1, not_before = $4, leased_until = NULL,
                settled_at = NULL, customer = NULL, moved_from = NULL,
                identifier = regexp_replace(b.identifier, ':r[0-9]+$', '') || ':r' || b.attempts,
                error = 'the customer ' || $3 || ' is deleted at Stripe: sent again for another one'
           FROM billing_account a
          WHERE b.tenant = $1 AND b.id = ANY($2) AND b.customer = $3 AND b.state IN ('quarantined', 'unknown')
            AND (b.leased_until IS NULL OR b.leased_until < $4) AND b.event_at > $5
            AND a.tenant = b.tenant AND a.livemode = b.livemode AND a.customer <> $3
            AND NOT EXISTS (SELECT FROM invoice i WHERE i.tenant = b.tenant AND i.period_start <= b.event_at
                               AND b.event_at < i.period_end AND ",
        is_final!("$6"),
        ") RETURNING b.id, b.identifier, b.quantity"
    ))
    .bind(tenant)
    .bind(batches)
    .bind(gone)
    .bind(now)
    .bind(now - decide::OLDEST)
    .bind(now - DRAFT_FOR)
    .fetch_all(&mut *conn)
    .await?;
    for (_, identifier, quantity) in &again {
        let detail = json!({ "customer_gone": gone, "quantity": quantity });
        audit_add(&mut *conn, caller, now, "billing.batch.requeue", Some(tenant), identifier, detail).await?;
    }
    Ok(again.into_iter().map(|(id, ..)| id).collect())
}
