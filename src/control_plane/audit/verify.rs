//! Whether every chain is whole: goes through the lines in order and computes each hash again. Nothing is written, and
//! nothing is locked: lines that come meanwhile are not looked at.
//!
//! The log holds its own ends ([`audit_head`](super)), so lines that were cut off are missed. Whoever can change those ends
//! as well can write the whole log anew: what shows that are ends that were kept elsewhere ([`audit_heads`],
//! [`audit_compare`]).

use chrono::{DateTime, Utc};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::chain::{self, Content, PLATFORM, ZERO, commitment};
use crate::kernel::ids::{AccountId, AuditId, TenantId};
use crate::kernel::page::{self, Asked, Page};
use crate::kernel::{Error, Result};

/// Lines that are read at a time.
const AT_A_TIME: i64 = 1_000;
/// Lines that one call goes through before it says how far it came.
const A_CALL: u64 = 50_000;
/// Broken chains that one call names; more say nothing new.
const MOST_BROKEN: usize = 100;

/// What is to be verified.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Verify {
    /// Only this tenant's chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Where the last call stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Verified {
    /// Chains that were gone through to their end, or to where they are broken.
    pub chains: u64,
    pub lines: u64,
    /// Lines whose personal part was forgotten, as it should be when an account is erased.
    pub forgotten: u64,
    /// The first broken line of each broken chain.
    pub broken: Vec<Broken>,
    /// Pass as `cursor` to go on; null when all was looked at.
    pub next_cursor: Option<String>,
}

/// Where a chain is broken first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Broken {
    /// `ten_…`, `acc_…` or `platform`.
    pub chain: String,
    /// The place in the chain.
    pub seq: i64,
    /// The line that stands there.
    pub line: Option<AuditId>,
    pub what: Damage,
    /// For people.
    pub detail: String,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// The line is not the one that was written.
    Changed,
    /// A line is gone, with lines after it.
    Missing,
    /// Lines stand in another order.
    Reordered,
    /// A line was put between others, or after the end.
    Inserted,
    /// The last lines are gone.
    Truncated,
    /// The whole chain is gone, or its end.
    Gone,
    /// What is there now is whole and is not what was there before.
    Rewritten,
}

/// The end of a chain: kept elsewhere, it shows whether the chain was written anew.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
pub struct AuditHead {
    /// `ten_…`, `acc_…` or `platform`.
    #[garde(length(max = 40))]
    pub chain: String,
    #[garde(skip)]
    pub seq: i64,
    /// In hexadecimal digits.
    #[garde(length(max = 64))]
    pub hash: String,
}

/// A line as it is read for this.
#[derive(Clone, sqlx::FromRow)]
struct Link {
    id: AuditId,
    at: DateTime<Utc>,
    actor: String,
    action: String,
    tenant: Option<TenantId>,
    subject: String,
    detail: Value,
    request_id: Option<String>,
    personal: Option<Vec<u8>>,
    seq: i64,
    hash: Vec<u8>,
    salt: Option<Vec<u8>>,
    data: Option<Value>,
}

impl Link {
    fn digest(&self, chain: Uuid) -> [u8; 32] {
        Content {
            id: self.id,
            at: self.at,
            chain,
            tenant: self.tenant,
            actor: &self.actor,
            action: &self.action,
            subject: &self.subject,
            detail: &self.detail,
            request_id: self.request_id.as_deref(),
            personal: self.personal.as_deref(),
        }
        .digest()
    }

    /// Its hash, if it stood at this place.
    fn hash_at(&self, place: &Place) -> [u8; 32] {
        chain::link(&place.hash, place.seq, &self.digest(place.chain))
    }

    fn fits(&self, place: &Place) -> bool {
        self.hash == self.hash_at(place)
    }

    /// Whether the personal part is the one that was written, or was forgotten.
    fn personal_holds(&self) -> bool {
        match (&self.personal, &self.salt, &self.data) {
            (Some(kept), Some(salt), Some(data)) => *kept == commitment(salt, data),
            (None, Some(_), _) => false,
            _ => true,
        }
    }
}

/// Where the next line belongs: its number, and the hash that it follows.
#[derive(Clone, Copy)]
struct Place {
    chain: Uuid,
    seq: i64,
    hash: [u8; 32],
}

impl Place {
    fn first(chain: Uuid) -> Self {
        Self { chain, seq: 1, hash: ZERO }
    }

    fn after(self, line: &Link) -> Self {
        Self { chain: self.chain, seq: self.seq + 1, hash: line.hash_at(&self) }
    }
}

/// What is wrong with the first of these lines, which should stand at `place`. The lines after it tell.
fn diagnose(place: &Place, lines: &[Link]) -> (Damage, &'static str) {
    let Some(line) = lines.first() else { return (Damage::Missing, "there is no line here") };
    if line.seq > place.seq {
        return (Damage::Missing, "the line is gone; later ones are there");
    }
    if line.fits(place) {
        return (Damage::Changed, "what the line says of a person is not what was written");
    }
    let rest = &lines[1..];
    // Whichever of the two hashes went along when lines changed places.
    let hash = line.hash.as_slice();
    let belongs = |other: &Link| {
        let computed = other.hash_at(place);
        other.hash == computed || hash == computed
    };
    if let Some(next) = rest.first().filter(|next| next.fits(place)) {
        let then = place.after(next);
        if line.fits(&then) {
            return (Damage::Reordered, "the line and the one after it changed places");
        }
        if rest.get(1).is_none_or(|one| one.fits(&then)) {
            return (Damage::Inserted, "the line was put between two that belong together");
        }
    }
    if rest.iter().any(belongs) {
        return (Damage::Reordered, "a later line belongs here");
    }
    (Damage::Changed, "this line, or the hash of the one before it, is not what was written")
}

/// Where a call stopped: the last chain that is done, or a place within one.
#[derive(Default, Serialize, Deserialize)]
struct Cursor {
    done: Option<Uuid>,
    within: Option<(i64, String)>,
}

/// Goes through the chains, or through one tenant's, for a while.
///
/// # Errors
/// `bad_cursor`; those of the database. Damage is no error.
pub async fn audit_verify(conn: &mut PgConnection, wish: &Verify) -> Result<Verified> {
    let mut report = Verified::default();
    let mut cursor: Cursor = wish.cursor.as_deref().map(page::decode).transpose()?.unwrap_or_default();
    if wish.cursor.is_none() {
        whole_log(conn, wish.tenant, &mut report).await?;
    }
    while let Some(end) = next_end(conn, wish.tenant, cursor.done).await? {
        let start = match cursor.within.take() {
            Some((seq, hash)) => Place { chain: end.chain, seq, hash: from_hex(&hash)? },
            None => Place::first(end.chain),
        };
        if let Some(stopped) = one_chain(conn, &end, start, &mut report).await? {
            cursor.within = Some((stopped.seq, HEXLOWER.encode(&stopped.hash)));
            report.next_cursor = Some(page::encode(&cursor));
            return Ok(report);
        }
        report.chains += 1;
        cursor.done = Some(end.chain);
        if report.lines >= A_CALL || report.chains >= A_CALL / 10 || report.broken.len() >= MOST_BROKEN {
            report.next_cursor = wish.tenant.is_none().then(|| page::encode(&cursor));
            return Ok(report);
        }
    }
    Ok(report)
}

fn from_hex(text: &str) -> Result<[u8; 32]> {
    let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Error::new(&crate::kernel::codes::BAD_CURSOR))
}

/// What no single chain shows: chains that are gone, lines that belong to none.
async fn whole_log(conn: &mut PgConnection, tenant: Option<TenantId>, report: &mut Verified) -> Result<()> {
    let gone = |chain: String, detail: &str| Broken {
        chain,
        seq: 0,
        line: None,
        what: Damage::Gone,
        detail: detail.to_owned(),
    };
    let headless: Vec<(Uuid, bool)> = sqlx::query_as(
        "SELECT chain, bool_or(of_tenant) FROM (
           SELECT t.id AS chain, true AS of_tenant FROM tenant t WHERE $1::uuid IS NULL OR t.id = $1
           UNION ALL SELECT a.chain, false FROM audit a WHERE a.chain IS NOT NULL AND ($1::uuid IS NULL OR a.chain = $1)
           UNION ALL SELECT $3, false WHERE $1::uuid IS NULL) AS wanted
          WHERE NOT EXISTS (SELECT FROM audit_head h WHERE h.chain = wanted.chain)
          GROUP BY chain ORDER BY chain LIMIT $2",
    )
    .bind(tenant)
    .bind(i64::try_from(MOST_BROKEN).unwrap_or(100))
    .bind(PLATFORM)
    .fetch_all(&mut *conn)
    .await?;
    for (chain, of_tenant) in headless {
        report
            .broken
            .push(gone(name_of(chain, of_tenant), "the chain has lost its end, or all of it is gone"));
    }
    if tenant.is_none() {
        let (unlinked, before): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM audit WHERE seq IS NULL OR chain IS NULL OR hash IS NULL),
                    coalesce((SELECT sum(lines)::bigint FROM audit_before), 0)",
        )
        .fetch_one(&mut *conn)
        .await?;
        if unlinked != before {
            let detail =
                format!("{unlinked} lines are in no chain; {before} were written before there were chains");
            let what = if unlinked > before { Damage::Inserted } else { Damage::Missing };
            report.broken.push(Broken { what, ..gone("platform".to_owned(), &detail) });
        }
    }
    Ok(())
}

/// A chain's end, with the number of its last line: of one moment, so that a line that comes in between confuses nobody.
#[derive(sqlx::FromRow)]
struct End {
    chain: Uuid,
    seq: i64,
    hash: Vec<u8>,
    last: Option<i64>,
    of_tenant: bool,
}

impl End {
    fn broken(&self, seq: i64, line: Option<AuditId>, (what, detail): (Damage, &str)) -> Broken {
        Broken { chain: name_of(self.chain, self.of_tenant), seq, line, what, detail: detail.to_owned() }
    }
}

async fn next_end(
    conn: &mut PgConnection,
    tenant: Option<TenantId>,
    done: Option<Uuid>,
) -> Result<Option<End>> {
    Ok(sqlx::query_as(
        "SELECT h.chain, h.seq, h.hash, (SELECT max(a.seq) FROM audit a WHERE a.chain = h.chain) AS last,
                EXISTS (SELECT FROM tenant t WHERE t.id = h.chain) AS of_tenant
           FROM audit_head h
          WHERE ($1::uuid IS NULL OR h.chain = $1) AND ($2::uuid IS NULL OR h.chain > $2)
          ORDER BY h.chain LIMIT 1",
    )
    .bind(tenant)
    .bind(done)
    .fetch_optional(conn)
    .await?)
}

/// Goes on through one chain. Says where it stopped, when it is too long for one call.
async fn one_chain(
    conn: &mut PgConnection,
    end: &End,
    mut place: Place,
    report: &mut Verified,
) -> Result<Option<Place>> {
    while place.seq <= end.seq {
        if report.lines >= A_CALL {
            return Ok(Some(place));
        }
        let lines = lines_from(conn, end.chain, place.seq).await?;
        if lines.is_empty() {
            let what = (Damage::Truncated, "the line is gone, and all after it");
            report.broken.push(end.broken(place.seq, None, what));
            return Ok(None);
        }
        // One of later than the end has come meanwhile, and where it should stand nothing does.
        if lines[0].seq > end.seq {
            report.broken.push(end.broken(place.seq, None, diagnose(&place, &lines)));
            return Ok(None);
        }
        for line in lines.iter().take_while(|line| line.seq <= end.seq) {
            if line.seq != place.seq || !line.fits(&place) || !line.personal_holds() {
                // Anew, so that enough lines after it are seen.
                let after = lines_from(conn, end.chain, place.seq).await?;
                let there = (line.seq == place.seq).then_some(line.id);
                report.broken.push(end.broken(place.seq, there, diagnose(&place, &after)));
                return Ok(None);
            }
            report.lines += 1;
            report.forgotten += u64::from(line.personal.is_some() && line.data.is_none());
            place = place.after(line);
        }
    }
    if end.hash != place.hash {
        let what = (Damage::Changed, "the chain's end does not follow from its last line");
        report.broken.push(end.broken(end.seq, None, what));
    } else if end.last.is_some_and(|last| last > end.seq) {
        let what = (Damage::Inserted, "there are lines after the chain's end");
        report.broken.push(end.broken(end.seq + 1, None, what));
    }
    Ok(None)
}

async fn lines_from(conn: &mut PgConnection, chain: Uuid, seq: i64) -> Result<Vec<Link>> {
    Ok(sqlx::query_as(
        "SELECT a.id, a.at, a.actor, a.action, a.tenant, a.subject, a.detail, a.request_id, a.personal, a.seq, a.hash,
                p.salt, p.data
           FROM audit a LEFT JOIN audit_personal p ON p.line = a.id
          WHERE a.chain = $1 AND a.seq >= $2 ORDER BY a.seq LIMIT $3",
    )
    .bind(chain)
    .bind(seq)
    .bind(AT_A_TIME)
    .fetch_all(conn)
    .await?)
}

fn name_of(chain: Uuid, of_tenant: bool) -> String {
    match (chain == PLATFORM, of_tenant) {
        (true, _) => "platform".to_owned(),
        (false, true) => TenantId(chain).to_string(),
        (false, false) => AccountId(chain).to_string(),
    }
}

fn chain_named(name: &str) -> Option<Uuid> {
    let of_tenant = || name.parse::<TenantId>().ok().map(|tenant| tenant.0);
    let of_person = || name.parse::<AccountId>().ok().map(|account| account.0);
    if name == "platform" { Some(PLATFORM) } else { of_tenant().or_else(of_person) }
}

/// Which page of the ends to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HeadFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// The ends of all chains, to be kept elsewhere.
pub async fn audit_heads(conn: &mut PgConnection, filter: &HeadFilter) -> Result<Page<AuditHead>> {
    let asked: Asked<Uuid> = Asked::of(filter.limit, filter.cursor.as_deref())?;
    let rows: Vec<(Uuid, i64, String, bool)> = sqlx::query_as(
        "SELECT h.chain, h.seq, encode(h.hash, 'hex'), EXISTS (SELECT FROM tenant t WHERE t.id = h.chain)
           FROM audit_head h WHERE $1::uuid IS NULL OR h.chain > $1 ORDER BY h.chain LIMIT $2",
    )
    .bind(asked.after)
    .bind(asked.rows())
    .fetch_all(conn)
    .await?;
    let page = asked.page(rows, |row| row.0);
    Ok(page.map(|(chain, seq, hash, of_tenant)| AuditHead { chain: name_of(chain, of_tenant), seq, hash }))
}

/// Whether every chain still goes through the ends that were kept.
///
/// # Errors
/// `invalid_fields` for what is no end of a chain.
pub async fn audit_compare(conn: &mut PgConnection, kept: &[AuditHead]) -> Result<Vec<Broken>> {
    let chains: Option<Vec<Uuid>> = kept.iter().map(|head| chain_named(&head.chain)).collect();
    let chains = chains.ok_or_else(|| Error::field("heads", "names a chain that there cannot be"))?;
    let places: Vec<i64> = kept.iter().map(|head| head.seq).collect();
    let now: Vec<Option<String>> = sqlx::query_scalar(
        "SELECT encode(a.hash, 'hex') FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS kept (chain, seq, at)
           LEFT JOIN audit a ON a.chain = kept.chain AND a.seq = kept.seq ORDER BY kept.at",
    )
    .bind(&chains)
    .bind(&places)
    .fetch_all(conn)
    .await?;
    let compared = kept.iter().zip(now).filter(|(head, _)| head.seq > 0);
    Ok(compared
        .filter_map(|(head, now)| {
            let (what, detail) = match now {
                Some(hash) if hash == head.hash => return None,
                Some(_) => (Damage::Rewritten, "the chain was written anew, up to here at least"),
                None => (Damage::Truncated, "the chain was longer once"),
            };
            let (chain, detail) = (head.chain.clone(), detail.to_owned());
            Some(Broken { chain, seq: head.seq, line: None, what, detail })
        })
        .collect())
}
