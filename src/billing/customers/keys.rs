//! Idempotency keys. Stripe replays a saved answer for a day, a 500 among them: so after an answer that cannot be used
//! the next try has another key. What may then happen twice is looked for before it is done again.

use std::future::Future;
use std::time::Duration;

use sqlx::PgConnection;

use crate::billing::Billing;
use crate::billing::stripe::{IdempotencyKey, Trouble};
use crate::kernel::Result;

/// How often a key that is in use is asked with again, and after what time: whoever uses it has its answer in a second.
const TRIES: u32 = 20;
const IN_USE: Duration = Duration::from_millis(200);

/// Asks with the key `<what>:<object>:<number of keys spoiled so far>`. Stripe answers 409 to the second of two that ask at
/// once (a button clicked twice): it waits for the first, and is given the first's answer.
///
/// # Errors
/// What Stripe says.
pub(super) async fn asked<T, F>(
    billing: &Billing,
    object: &str,
    what: &str,
    ask: impl Fn(IdempotencyKey) -> F,
) -> Result<T>
where
    F: Future<Output = Result<T, Trouble>>,
{
    let spoiled = spoiled(&mut *billing.cp.db.acquire().await?, object, what).await?;
    let key = format!("{what}:{object}:{spoiled}");
    let mut answer = ask(key.clone()).await;
    for _ in 1..TRIES {
        if !matches!(answer, Err(Trouble::Later { status: 409, .. })) {
            break;
        }
        tokio::time::sleep(IN_USE).await;
        answer = ask(key.clone()).await;
    }
    if matches!(answer, Err(Trouble::Broken { .. })) {
        spoil(billing, object, what, spoiled).await?;
    }
    Ok(answer?)
}

/// `LIKE` would take an underscore for any character.
async fn spoiled(conn: &mut PgConnection, object: &str, what: &str) -> Result<i64> {
    Ok(sqlx::query_scalar(
        "SELECT count(*) FROM billing_effect WHERE object = $1 AND starts_with(transition, $2)",
    )
    .bind(object)
    .bind(format!("spoiled:{what}:"))
    .fetch_one(conn)
    .await?)
}

async fn spoil(billing: &Billing, object: &str, what: &str, number: i64) -> Result<()> {
    sqlx::query(
        "INSERT INTO billing_effect (object, transition, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(object)
    .bind(format!("spoiled:{what}:{number}"))
    .bind(billing.cp.clock.now())
    .execute(&billing.cp.db)
    .await?;
    Ok(())
}
