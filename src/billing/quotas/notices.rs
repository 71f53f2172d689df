//! Who is told that a limit is near, or reached: each owner, by mail, once a period for 80 percent and once for 100. It is told of
//! again after it fell below 70 percent: bytes and seats when there are fewer, a month's count when the plan grants more.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::level::{ALWAYS, FORGOTTEN, HARD, Quota, SOFT};
use super::month::Month;
use crate::billing::Billing;
use crate::jobs::queue::job_add;
use crate::kernel::ids::{AccountId, TenantId};
use crate::kernel::{Error, Result};

/// The kind of the job that sends one.
pub const JOB: &str = "quota_notice";

/// Tenants told of in one transaction: a moment's work.
const AT_ONCE: i64 = 200;
/// Owners of one tenant who are told.
const OWNERS: i64 = 20;

/// What a job of kind [`JOB`] is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub quota: Quota,
    pub period: NaiveDate,
    pub percent: u8,
    /// Who is told.
    pub account: AccountId,
}

/// Looks who has passed 80 or 100 percent since they were last told, and sees that they are told.
///
/// # Errors
/// What the control database says.
pub async fn tell(billing: Billing) -> Result<()> {
    let now = billing.cp.clock.now();
    loop {
        let mut tx = billing.cp.db.begin().await?;
        let told = tell_some(&mut tx, billing.mail.is_some(), now).await?;
        tx.commit().await?;
        if told < AT_ONCE {
            break;
        }
    }
    let mut conn = billing.cp.db.acquire().await?;
    forget(&mut conn, now).await
}

/// Every count that is kept in the control database, with its limit: `tenant`, `quota`, `period`, `used`, `most`.
macro_rules! counts {
    () => {
        "counts AS (
             SELECT q.tenant, q.quota, q.period, q.used::numeric AS used,
                    (plan.entitlements->>q.quota)::numeric AS most
               FROM quota_level q JOIN tenant t ON t.id = q.tenant AND t.state = 'active'
               JOIN plan ON plan.id = t.plan
              WHERE q.period IN ($1::date, $2::date)
             UNION ALL
             SELECT m.tenant, 'seats', $2::date, m.seats::numeric, (plan.entitlements->>'seats')::numeric
               FROM (SELECT tenant, count(*) AS seats FROM membership GROUP BY tenant) m
               JOIN tenant t ON t.id = m.tenant AND t.state = 'active' JOIN plan ON plan.id = t.plan)"
    };
}

/// Notes who is to be told and adds a job for each owner. Gives how many limits were noted. Two workers at once note each
/// once.
async fn tell_some(conn: &mut PgConnection, by_mail: bool, now: DateTime<Utc>) -> Result<i64> {
    // Of somebody who comes straight to 100 percent, 80 is noted too: it would be told late, and it is no news.
    let noted: Vec<(TenantId, Quota, NaiveDate, i16)> = sqlx::query_as(concat!(
        "WITH ",
        counts!(),
        ", due AS (
             SELECT c.tenant, c.quota, c.period, CASE WHEN c.used >= c.most THEN $4::smallint ELSE $3::smallint END AS percent
               FROM counts c
              WHERE c.most > 0 AND c.used * 100 >= c.most * $3::smallint
                AND NOT EXISTS (SELECT FROM quota_notice n
                                 WHERE (n.tenant, n.quota, n.period) = (c.tenant, c.quota, c.period)
                                   AND n.percent >= CASE WHEN c.used >= c.most THEN $4::smallint ELSE $3::smallint END)
              ORDER BY c.tenant, c.quota LIMIT $5),
         noted AS (
             INSERT INTO quota_notice (tenant, quota, period, percent, at)
             SELECT due.tenant, due.quota, due.period, step.percent, $6
               FROM due JOIN (VALUES ($3::smallint), ($4::smallint)) AS step (percent)
                 ON step.percent <= due.percent
              ORDER BY due.tenant, due.quota, step.percent
             ON CONFLICT DO NOTHING RETURNING tenant, quota, period, percent)
         SELECT noted.tenant, noted.quota, noted.period, noted.percent
           FROM noted JOIN due USING (tenant, quota, period, percent)"
    ))
    .bind(Month::of(now).first_day())
    .bind(ALWAYS)
    .bind(i16::from(SOFT))
    .bind(i16::from(HARD))
    .bind(AT_ONCE)
    .bind(now)
    .fetch_all(&mut *conn)
    .await?;
    let count = i64::try_from(noted.len()).map_err(Error::internal)?;
    for (tenant, quota, period, percent) in noted {
        metrics::counter!("quota_notices_total", "quota" => quota.as_str(), "percent" => percent.to_string())
            .increment(1);
        if !by_mail {
            continue;
        }
        for account in owners(&mut *conn, tenant).await? {
            let percent = u8::try_from(percent).map_err(Error::internal)?;
            let notice = Notice { quota, period, percent, account };
            let payload = serde_json::to_value(&notice).map_err(Error::internal)?;
            job_add(&mut *conn, JOB, Some(tenant), None, payload, now).await?;
        }
    }
    Ok(count)
}

async fn owners(conn: &mut PgConnection, tenant: TenantId) -> Result<Vec<AccountId>> {
    Ok(sqlx::query_scalar(
        "SELECT m.account FROM membership m JOIN account a ON a.id = m.account
          WHERE m.tenant = $1 AND m.role = 'owner' AND a.deleted_at IS NULL AND a.email IS NOT NULL
          ORDER BY m.joined_at, m.account LIMIT $2",
    )
    .bind(tenant)
    .bind(OWNERS)
    .fetch_all(conn)
    .await?)
}

/// Whoever is clearly below a limit is told again the next time.
async fn forget(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<()> {
    sqlx::query(concat!(
        "WITH ",
        counts!(),
        " DELETE FROM quota_notice n
           WHERE n.period IN ($1::date, $2::date) AND NOT EXISTS (
                 SELECT FROM counts c
                  WHERE (c.tenant, c.quota, c.period) = (n.tenant, n.quota, n.period)
                    AND c.most > 0 AND c.used * 100 >= c.most * $3::smallint)"
    ))
    .bind(Month::of(now).first_day())
    .bind(ALWAYS)
    .bind(i16::from(FORGOTTEN))
    .execute(conn)
    .await?;
    Ok(())
}
