//! Where a new tenant goes.

use sqlx::PgConnection;

use crate::kernel::Result;
use crate::kernel::ids::ShardId;

/// A shard that may take a tenant.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Candidate {
    pub id: ShardId,
    pub name: String,
    pub host: String,
    pub port: i32,
    pub database: String,
    pub tenants: i32,
    pub tenant_cap: i32,
    pub bytes: i64,
}

/// Best first: most room for tenants, then fewest bytes, then by name so that a tie always falls the same way. Full
/// shards are left out.
pub fn rank(mut shards: Vec<Candidate>) -> Vec<Candidate> {
    shards.retain(|shard| shard.tenants < shard.tenant_cap);
    shards.sort_by(|a, b| {
        let room = |shard: &Candidate| shard.tenant_cap - shard.tenants;
        room(b).cmp(&room(a)).then(a.bytes.cmp(&b.bytes)).then(a.name.cmp(&b.name))
    });
    shards
}

/// The active shards of a pool, but for those that did not answer the last probe. How long ago that was does not
/// matter: without a worker nobody probes, and a tenant can be signed up all the same.
pub async fn candidates(conn: &mut PgConnection, pool: &str) -> Result<Vec<Candidate>> {
    Ok(sqlx::query_as(
        "SELECT id, name, host, port, database, tenants, tenant_cap, bytes FROM shard
          WHERE pool = $1 AND state = 'active' AND last_failure IS NULL",
    )
    .bind(pool)
    .fetch_all(conn)
    .await?)
}

/// Takes one place on a shard, unless it has filled up, or stopped taking tenants, meanwhile. `most` is a cap of the
/// caller's own.
pub async fn take_place(conn: &mut PgConnection, shard: ShardId, most: i32) -> Result<bool> {
    let taken = sqlx::query(
        "UPDATE shard SET tenants = tenants + 1 WHERE id = $1 AND tenants < least(tenant_cap, $2) AND state = 'active'",
    )
    .bind(shard)
    .bind(most)
    .execute(conn)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// Gives a place back.
pub async fn give_place_back(conn: &mut PgConnection, shard: ShardId) -> Result<()> {
    sqlx::query("UPDATE shard SET tenants = greatest(tenants - 1, 0) WHERE id = $1")
        .bind(shard)
        .execute(conn)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shard(name: &str, tenants: i32, tenant_cap: i32, bytes: i64) -> Candidate {
        Candidate {
            id: ShardId::new(),
            name: name.to_owned(),
            host: String::new(),
            port: 1,
            database: String::new(),
            tenants,
            tenant_cap,
            bytes,
        }
    }

    #[test]
    fn room_then_bytes_then_name() {
        let ranked = rank(vec![
            shard("full", 5, 5, 0),
            shard("b", 1, 5, 10),
            shard("a", 1, 5, 10),
            shard("light", 1, 5, 9),
            shard("roomy", 0, 5, 99),
        ]);
        let names: Vec<_> = ranked.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["roomy", "light", "a", "b"]);
    }

    proptest! {
        #[test]
        fn never_a_full_shard_and_never_by_order_of_input(
            rows in prop::collection::vec((0..6i32, 1..6i32, 0..3i64), 0..8), seed in any::<u64>(),
        ) {
            let shards: Vec<_> = rows.iter().enumerate()
                .map(|(i, (used, cap, bytes))| shard(&format!("s{i}"), *used, *cap, *bytes)).collect();
            let mut shuffled = shards.clone();
            let half = shuffled.len().max(1);
            shuffled.rotate_left((seed as usize) % half);
            let (a, b) = (rank(shards), rank(shuffled));
            prop_assert!(a.iter().all(|s| s.tenants < s.tenant_cap));
            prop_assert_eq!(a.iter().map(|s| &s.name).collect::<Vec<_>>(), b.iter().map(|s| &s.name).collect::<Vec<_>>());
        }
    }
}
