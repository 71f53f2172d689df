//! What somebody with every right did to the log is found, and named.

use chrono::{DateTime, Utc};
use freehold::control_plane::audit::chain::{Content, link};
use freehold::control_plane::audit::verify::{AuditHead, Damage, HeadFilter, audit_compare, audit_heads};
use freehold::kernel::ids::AuditId;
use freehold::kernel::page::MAX_LIMIT;
use freehold::product::{Current, Product};
use freehold::testkit::World;
use serde_json::Value;

use super::fixture::{as_superuser, line, tenant, verified};

/// What is done to a chain of nine lines, the first broken line, and what is said of it.
const CASES: &[(&str, &[&str], i64, Damage)] = &[
    ("actor", &["UPDATE audit SET actor = 'mallory' WHERE chain = $1 AND seq = 3"], 3, Damage::Changed),
    (
        "time",
        &["UPDATE audit SET at = at - interval '1 microsecond' WHERE chain = $1 AND seq = 9"],
        9,
        Damage::Changed,
    ),
    (
        "detail",
        &["UPDATE audit SET detail = jsonb_set(detail, '{deep,a}', '\"e\"') WHERE chain = $1 AND seq = 2"],
        2,
        Damage::Changed,
    ),
    ("tenant", &["UPDATE audit SET tenant = NULL WHERE chain = $1 AND seq = 4"], 4, Damage::Changed),
    (
        "personal",
        &["UPDATE audit_personal SET data = '{\"email\": \"eve@example.com\"}'
            WHERE line = (SELECT id FROM audit WHERE chain = $1 AND seq = 5)"],
        5,
        Damage::Changed,
    ),
    ("missing", &["DELETE FROM audit WHERE chain = $1 AND seq = 4"], 4, Damage::Missing),
    ("first", &["DELETE FROM audit WHERE chain = $1 AND seq = 1"], 1, Damage::Missing),
    ("cut", &["DELETE FROM audit WHERE chain = $1 AND seq > 6"], 7, Damage::Truncated),
    ("emptied", &["DELETE FROM audit WHERE chain = $1"], 1, Damage::Truncated),
    (
        "swapped",
        &[
            "UPDATE audit SET seq = -3 WHERE chain = $1 AND seq = 3",
            "UPDATE audit SET seq = 3 WHERE chain = $1 AND seq = 4",
            "UPDATE audit SET seq = 4 WHERE chain = $1 AND seq = -3",
        ],
        3,
        Damage::Reordered,
    ),
    (
        "swapped-last",
        &[
            "UPDATE audit SET seq = -8 WHERE chain = $1 AND seq = 8",
            "UPDATE audit SET seq = 8 WHERE chain = $1 AND seq = 9",
            "UPDATE audit SET seq = 9 WHERE chain = $1 AND seq = -8",
        ],
        8,
        Damage::Reordered,
    ),
    (
        "swapped-far",
        &[
            "UPDATE audit a SET seq = -a.seq, hash = b.hash FROM audit b
              WHERE a.chain = $1 AND b.chain = $1 AND (a.seq, b.seq) IN ((2, 7), (7, 2))",
            "UPDATE audit SET seq = 9 + seq WHERE chain = $1 AND seq < 0",
        ],
        2,
        Damage::Reordered,
    ),
    (
        "inserted",
        &[
            "UPDATE audit SET seq = seq + 1000 WHERE chain = $1 AND seq >= 4",
            "UPDATE audit SET seq = seq - 999 WHERE chain = $1 AND seq > 1000",
            "INSERT INTO audit (id, chain, at, actor, action, tenant, subject, seq, hash)
             SELECT gen_random_uuid(), chain, at, 'mallory', action, tenant, subject, 4, hash
               FROM audit WHERE chain = $1 AND seq = 3",
        ],
        4,
        Damage::Inserted,
    ),
    (
        "appended",
        &["INSERT INTO audit (id, chain, at, actor, action, tenant, subject, seq, hash)
           SELECT gen_random_uuid(), chain, at, 'mallory', action, tenant, subject, 10, hash
             FROM audit WHERE chain = $1 AND seq = 9"],
        10,
        Damage::Inserted,
    ),
    ("end", &["UPDATE audit_head SET hash = sha256(hash) WHERE chain = $1"], 9, Damage::Changed),
    (
        "gone",
        &["DELETE FROM audit WHERE chain = $1", "DELETE FROM audit_head WHERE chain = $1"],
        0,
        Damage::Gone,
    ),
    ("headless", &["DELETE FROM audit_head WHERE chain = $1"], 0, Damage::Gone),
];

/// B13. Shown to fail: `whole_log` taken out (chains that are gone), the look at the last number taken out of `one_chain`
/// (what was put after the end).
#[tokio::test]
async fn each_damage_is_found_and_the_first_broken_line_is_named() {
    let world = World::new(Current::migrations()).await;
    let mut chains = Vec::new();
    for (name, ..) in CASES {
        let chain = tenant(&world, name).await;
        for n in 0..8 {
            line(&world, Some(chain), &format!("s{n}")).await;
        }
        chains.push(chain);
    }
    let neighbour = tenant(&world, "neighbour").await;
    let whole = verified(&world, None).await;
    assert_eq!(whole.broken, []);
    for (chain, (name, statements, seq, what)) in chains.iter().zip(CASES) {
        as_superuser(&world, statements, *chain).await;
        let report = verified(&world, Some(*chain)).await;
        let found: Vec<(&str, i64, Damage)> =
            report.broken.iter().map(|one| (one.chain.as_str(), one.seq, one.what)).collect();
        assert_eq!(found[0].1, *seq, "{name}: {report:?}");
        assert_eq!(found[0].2, *what, "{name}: {report:?}");
        if *name != "gone" && *name != "headless" {
            assert_eq!(found.len(), 1, "{name}: {report:?}");
            assert_eq!(found[0].0, chain.to_string());
        }
    }
    let all = verified(&world, None).await;
    let broken: std::collections::BTreeSet<&str> = all.broken.iter().map(|one| one.chain.as_str()).collect();
    assert_eq!(broken.len(), CASES.len(), "all at once: {all:?}");
    assert!(!broken.contains(neighbour.to_string().as_str()), "and no other");
}

/// Who changes a line and gives it the hash that it then has is found at the line after it.
///
/// Shown to fail: the hash before it taken out of `chain::link`, and of the statement that writes a line.
#[tokio::test]
async fn a_changed_line_with_its_own_hash_does_not_lead_to_the_next() {
    let world = World::new(Current::migrations()).await;
    let acme = tenant(&world, "acme").await;
    for n in 0..5 {
        line(&world, Some(acme), &format!("s{n}")).await;
    }
    let mut tx = world.db().begin().await.unwrap();
    type Row = (AuditId, DateTime<Utc>, String, String, Value, Vec<u8>, Vec<u8>);
    let (id, at, action, subject, detail, personal, before): Row = sqlx::query_as(
        "SELECT a.id, a.at, a.action, a.subject, a.detail, a.personal, b.hash
           FROM audit a JOIN audit b ON b.chain = a.chain AND b.seq = 2 WHERE a.chain = $1 AND a.seq = 3",
    )
    .bind(acme)
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    let forged = Content {
        id,
        at,
        chain: acme.0,
        tenant: Some(acme),
        actor: "mallory",
        action: &action,
        subject: &subject,
        detail: &detail,
        request_id: None,
        personal: Some(&personal),
    };
    let hash = link(&before.try_into().unwrap(), 3, &forged.digest());
    sqlx::query("SET LOCAL session_replication_role = replica").execute(&mut *tx).await.unwrap();
    sqlx::query("UPDATE audit SET actor = 'mallory', hash = $2 WHERE id = $1")
        .bind(id)
        .bind(&hash[..])
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let broken = verified(&world, Some(acme)).await.broken;
    assert_eq!((broken.len(), broken[0].seq, broken[0].what), (1, 4, Damage::Changed), "{broken:?}");
}

/// Who can change the lines can change the chain's end too. What shows that is an end that was kept elsewhere.
///
/// Shown to fail: the comparison of hashes taken out of `audit_compare`.
#[tokio::test]
async fn a_log_that_was_written_anew_differs_from_the_ends_that_were_kept() {
    let world = World::new(Current::migrations()).await;
    let (cut, anew, fine) =
        (tenant(&world, "cut").await, tenant(&world, "anew").await, tenant(&world, "fine").await);
    for chain in [cut, anew, fine] {
        for n in 0..4 {
            line(&world, Some(chain), &format!("s{n}")).await;
        }
    }
    let mut conn = world.db().acquire().await.unwrap();
    let filter = HeadFilter { limit: Some(MAX_LIMIT), cursor: None };
    let kept: Vec<AuditHead> = audit_heads(&mut conn, &filter).await.unwrap().items;
    assert_eq!(kept.len(), 4, "three tenants and the platform");
    assert_eq!(audit_compare(&mut conn, &kept).await.unwrap(), []);
    drop(conn);

    as_superuser(
        &world,
        &[
            "DELETE FROM audit WHERE chain = $1 AND seq > 3",
            "UPDATE audit_head h SET seq = 3, hash = (SELECT hash FROM audit a WHERE a.chain = h.chain AND a.seq = 3)
              WHERE chain = $1",
        ],
        cut,
    )
    .await;
    as_superuser(
        &world,
        &["DELETE FROM audit WHERE chain = $1", "DELETE FROM audit_head WHERE chain = $1"],
        anew,
    )
    .await;
    for n in 0..9 {
        line(&world, Some(anew), &format!("another{n}")).await;
    }
    line(&world, Some(fine), "later").await;
    assert_eq!(verified(&world, None).await.broken, [], "whole, as far as the database knows");
    let mut conn = world.db().acquire().await.unwrap();
    let mut broken: Vec<(String, i64, Damage)> = audit_compare(&mut conn, &kept)
        .await
        .unwrap()
        .into_iter()
        .map(|one| (one.chain, one.seq, one.what))
        .collect();
    broken.sort_by_key(|one| one.2 as u8);
    assert_eq!(broken, [(cut.to_string(), 5, Damage::Truncated), (anew.to_string(), 5, Damage::Rewritten)]);
}
