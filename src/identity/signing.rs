//! The keys that access tokens are signed with: made, published, put to use, retired. The private half is sealed with the
//! master key; the public half is anybody's.
//!
//! A key is published [`PUBLISHED_AHEAD`] before it signs, so that every server and every cache of the published set knows
//! it when the first token comes; and it stays published until all that it signed has expired.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use chrono::{DateTime, TimeDelta, Utc};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::access_token;
use crate::control_plane::ControlPlane;
use crate::control_plane::audit::{Caller, audit_add};
use crate::kernel::seal::Use;
use crate::kernel::secret::sha256;
use crate::kernel::{Entropy, Error, MasterKey, Result, codes};

/// How long others may keep the published set.
pub const PUBLISHED_SET_AGE: TimeDelta = TimeDelta::minutes(5);
/// From a key's publication to its first signature: longer than anyone keeps the set.
pub const PUBLISHED_AHEAD: TimeDelta = TimeDelta::minutes(15);
/// How long a key signs before the worker makes the next.
const SIGNS_FOR: TimeDelta = TimeDelta::days(30);
/// From a key's last signature until nothing of it can be valid: a token's life, and as long again for servers that were
/// slow to take up the next key.
const RETIRES_AFTER: TimeDelta = access_token::LIFE.checked_mul(2).expect("a constant");

/// Where a key is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Published; does not sign yet.
    Published,
    Signing,
    /// What it signed may still be valid.
    Verifying,
    Retired,
}

/// A signing key, without its private half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// RFC 7638 thumbprint of the public half.
    pub kid: String,
    pub phase: Phase,
    pub created_at: DateTime<Utc>,
    pub signs_from: DateTime<Utc>,
    pub retired_at: Option<DateTime<Utc>>,
}

/// A key as servers use it.
#[derive(sqlx::FromRow)]
pub(super) struct Published {
    pub kid: String,
    pub public_jwk: Value,
    pub private_key: Vec<u8>,
    pub signs_from: DateTime<Utc>,
}

#[derive(Clone, Debug, sqlx::FromRow)]
struct Row {
    kid: String,
    created_at: DateTime<Utc>,
    signs_from: DateTime<Utc>,
    retired_at: Option<DateTime<Utc>>,
}

/// All that are not retired, the one that signs first last.
pub(super) async fn published(conn: &mut PgConnection) -> Result<Vec<Published>> {
    Ok(sqlx::query_as(
        "SELECT kid, public_jwk, private_key, signs_from FROM signing_key
          WHERE retired_at IS NULL ORDER BY signs_from, kid",
    )
    .fetch_all(conn)
    .await?)
}

/// All keys, newest first.
pub async fn signing_key_list(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<Vec<SigningKey>> {
    let rows = rows(conn).await?;
    let mut keys: Vec<SigningKey> = rows.iter().map(|row| described(row, &rows, now)).collect();
    keys.reverse();
    Ok(keys)
}

/// Makes the first key, which signs at once, unless there is one. Servers that come at the same time make one together.
pub async fn signing_key_ensure(cp: &ControlPlane, master: &MasterKey) -> Result<()> {
    let mut tx = cp.db.begin().await?;
    lock(&mut tx).await?;
    // After the wait: a key that another server made meanwhile must not look like one of the future.
    let now = cp.clock.now();
    if signing(&rows(&mut tx).await?, now).is_none() {
        insert(&mut tx, master, &cp.entropy, now, now).await?;
    }
    Ok(tx.commit().await?)
}

/// Publishes the next key. `at_once` is for a key that leaked: the new one signs now, and all that the others signed is
/// refused by every server within a minute.
///
/// # Errors
/// `state_conflict` when a key is waiting for its time already.
pub async fn signing_key_rotate(
    cp: &ControlPlane,
    master: &MasterKey,
    caller: &Caller,
    at_once: bool,
) -> Result<SigningKey> {
    let mut tx = cp.db.begin().await?;
    lock(&mut tx).await?;
    // After the wait: a key that another server made meanwhile must not look like one of the future.
    let now = cp.clock.now();
    let known = rows(&mut tx).await?;
    let waiting = known.iter().find(|row| row.retired_at.is_none() && row.signs_from > now);
    let signs_from = match (waiting, signing(&known, now)) {
        (Some(waiting), _) if !at_once => {
            return Err(Error::new(&codes::STATE_CONFLICT)
                .detail(format!("key {} is published and signs from {}", waiting.kid, waiting.signs_from))
                .hint("if a key leaked, use --now"));
        }
        (_, Some(_)) if !at_once => now + PUBLISHED_AHEAD,
        _ => now,
    };
    if at_once {
        sqlx::query("UPDATE signing_key SET retired_at = $1 WHERE retired_at IS NULL")
            .bind(now)
            .execute(&mut *tx)
            .await?;
    }
    let kid = insert(&mut tx, master, &cp.entropy, now, signs_from).await?;
    let detail = json!({ "signs_from": signs_from, "at_once": at_once });
    audit_add(&mut tx, caller, now, "signing_key.rotate", None, &kid, detail).await?;
    let all = rows(&mut tx).await?;
    let made = all.iter().find(|row| row.kid == kid).map(|row| described(row, &all, now));
    tx.commit().await?;
    made.ok_or_else(|| Error::internal("the key just made is not there"))
}

/// Retires keys whose tokens have all expired, and publishes the next one in time. For the worker, now and then.
pub async fn signing_key_tend(cp: &ControlPlane, master: &MasterKey) -> Result<()> {
    let mut tx = cp.db.begin().await?;
    lock(&mut tx).await?;
    // After the wait: a key that another server made meanwhile must not look like one of the future.
    let now = cp.clock.now();
    let due = due(&rows(&mut tx).await?, now);
    if !due.retire.is_empty() {
        sqlx::query("UPDATE signing_key SET retired_at = $1 WHERE kid = ANY($2)")
            .bind(now)
            .bind(&due.retire)
            .execute(&mut *tx)
            .await?;
    }
    if due.next {
        let kid = insert(&mut tx, master, &cp.entropy, now, now + PUBLISHED_AHEAD).await?;
        let worker = Caller::worker();
        audit_add(&mut tx, &worker, now, "signing_key.rotate", None, &kid, json!({ "at_once": false }))
            .await?;
    }
    Ok(tx.commit().await?)
}

/// What is due. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Due {
    retire: Vec<String>,
    next: bool,
}

fn due(rows: &[Row], now: DateTime<Utc>) -> Due {
    // No server has needed one yet: the first that does makes it.
    let Some(current) = signing(rows, now) else { return Due::default() };
    let over = current.signs_from + RETIRES_AFTER <= now;
    let before = rows.iter().filter(|row| row.retired_at.is_none() && row.signs_from < current.signs_from);
    let waiting = rows.iter().any(|row| row.retired_at.is_none() && row.signs_from > now);
    Due {
        retire: before.filter(|_| over).map(|row| row.kid.clone()).collect(),
        next: !waiting && current.signs_from + SIGNS_FOR <= now,
    }
}

/// The key that signs now: of those whose time has come, the latest.
fn signing(rows: &[Row], now: DateTime<Utc>) -> Option<&Row> {
    let due = rows.iter().filter(|row| row.retired_at.is_none() && row.signs_from <= now);
    due.max_by(|a, b| (a.signs_from, &a.kid).cmp(&(b.signs_from, &b.kid)))
}

fn described(row: &Row, all: &[Row], now: DateTime<Utc>) -> SigningKey {
    let phase = match signing(all, now) {
        _ if row.retired_at.is_some() => Phase::Retired,
        Some(current) if current.kid == row.kid => Phase::Signing,
        _ if row.signs_from > now => Phase::Published,
        _ => Phase::Verifying,
    };
    SigningKey {
        kid: row.kid.clone(),
        phase,
        created_at: row.created_at,
        signs_from: row.signs_from,
        retired_at: row.retired_at,
    }
}

/// Whoever changes the set waits for whoever does; readers do not.
async fn lock(conn: &mut PgConnection) -> Result<()> {
    sqlx::query("LOCK TABLE signing_key IN SHARE ROW EXCLUSIVE MODE").execute(conn).await?;
    Ok(())
}

/// Oldest first.
async fn rows(conn: &mut PgConnection) -> Result<Vec<Row>> {
    Ok(sqlx::query_as(
        "SELECT kid, created_at, signs_from, retired_at FROM signing_key ORDER BY signs_from, kid LIMIT 1000",
    )
    .fetch_all(conn)
    .await?)
}

async fn insert(
    conn: &mut PgConnection,
    master: &MasterKey,
    entropy: &Entropy,
    now: DateTime<Utc>,
    signs_from: DateTime<Utc>,
) -> Result<String> {
    let made = make(entropy)?;
    let sealed = master.seal(Use::SigningKey, made.kid.as_bytes(), entropy, &made.private);
    sqlx::query(
        "INSERT INTO signing_key (kid, public_jwk, private_key, created_at, signs_from) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&made.kid)
    .bind(&made.jwk)
    .bind(sealed)
    .bind(now)
    .bind(signs_from)
    .execute(conn)
    .await?;
    Ok(made.kid)
}

struct Made {
    kid: String,
    jwk: Value,
    /// PKCS#8.
    private: Vec<u8>,
}

fn make(entropy: &Entropy) -> Result<Made> {
    let pair = Ed25519KeyPair::from_seed_unchecked(&entropy.bytes::<32>())
        .map_err(|_| Error::internal("a signing key could not be made"))?;
    let private =
        pair.to_pkcs8().map_err(|_| Error::internal("a signing key could not be written"))?.as_ref().to_vec();
    let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
    let kid = thumbprint(&x);
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig", "alg": "EdDSA", "kid": kid });
    Ok(Made { kid, jwk, private })
}

/// RFC 7638, of an Ed25519 key.
fn thumbprint(x: &str) -> String {
    BASE64URL_NOPAD.encode(&sha256(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::minutes(minutes)
    }

    fn key(kid: &str, signs_from: i64) -> Row {
        Row { kid: kid.to_owned(), created_at: at(0), signs_from: at(signs_from), retired_at: None }
    }

    #[test]
    fn the_thumbprint_is_the_standard_s() {
        // RFC 8037, appendix A.3.
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        assert_eq!(thumbprint(x), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_key_is_retired_when_all_it_signed_is_over_and_the_next_is_made_in_time() {
        let days = |days: i64| days * 24 * 60;
        assert_eq!(due(&[], at(0)), Due::default());
        let one = [key("a", 0)];
        assert_eq!(due(&one, at(days(29))), Due::default());
        assert_eq!(due(&one, at(days(30))), Due { retire: vec![], next: true });
        let two = [key("a", 0), key("b", 100)];
        assert_eq!(due(&two, at(99)), Due::default(), "b waits");
        assert_eq!(due(&two, at(119)), Due::default(), "what a signed may still be valid");
        assert_eq!(due(&two, at(120)), Due { retire: vec!["a".to_owned()], next: false });
        assert_eq!(signing(&two, at(99)).unwrap().kid, "a");
        assert_eq!(signing(&two, at(100)).unwrap().kid, "b");
        let phases: Vec<Phase> = two.iter().map(|row| described(row, &two, at(50)).phase).collect();
        assert_eq!(phases, [Phase::Signing, Phase::Published]);
    }
}
