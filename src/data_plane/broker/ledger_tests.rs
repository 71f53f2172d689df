use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const QUANTUM: Duration = Duration::from_millis(50);
const QUIET: Duration = Duration::from_millis(250);
const GROW: Duration = Duration::from_millis(5);

/// A ledger driven by hand: waiters are numbers, the pool of a tenant is its name, time moves when told.
struct Desk {
    ledger: Ledger<Arc<str>, u32>,
    now: Instant,
    budget: usize,
}

impl Desk {
    fn new(budget: usize) -> Self {
        let rules = Rules { quantum: QUANTUM, quiet_after: QUIET, grow_after: GROW, queue_limit: 1000 };
        Self { ledger: Ledger::new(budget, rules), now: Instant::now(), budget }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn ask(&mut self, role: &str, ceiling: usize, waiter: u32) -> Answer<Arc<str>> {
        let role: Arc<str> = role.into();
        self.ledger.request(&role, ceiling, self.now, || role.clone(), || waiter)
    }

    fn warm(&mut self, role: &str, turn: Instant) -> Vec<(u32, Source<Arc<str>>)> {
        let grants = self.ledger.release(role, true, turn, self.now);
        grants.into_iter().map(|grant| (grant.waiter, grant.source)).collect()
    }

    fn check(&self) {
        let (mut conns, mut idle, mut waiting) = (0, 0, 0);
        for (role, entry) in &self.ledger.tenants {
            assert!(entry.idle <= entry.conns);
            assert_eq!(entry.in_round, entry.wants(), "{role}: the round agrees with the wishes");
            assert!(entry.conns > 0 || !entry.waiters.is_empty(), "{role}: nothing is kept for the idle");
            assert!(!(entry.wants() && entry.idle > 0), "{role}: waits beside its own idle connection");
            conns += entry.conns;
            idle += entry.idle;
            waiting += entry.waiters.len();
        }
        assert_eq!(conns + self.ledger.free, self.budget, "permits neither leak nor appear");
        assert_eq!((idle, waiting), (self.ledger.idle, self.ledger.waiting));
        let starving = self.ledger.round.iter().filter(|r| self.ledger.tenants[*r].conns == 0).count();
        assert!(starving == 0 || self.ledger.free + self.ledger.idle == 0, "a lost wake-up");
        assert!(self.ledger.round.is_empty() || self.ledger.free == 0, "a free permit and one who wants it");
    }
}

fn granted(source: Source<Arc<str>>, pool: &str) -> Answer<Arc<str>> {
    Answer::Granted { pool: pool.into(), source }
}

#[test]
fn the_least_valuable_idle_connection_of_another_tenant_gives_way() {
    let mut desk = Desk::new(2);
    for (role, uses) in [("busy", 5), ("rare", 1)] {
        for _ in 0..uses {
            desk.ask(role, 4, 0);
            desk.warm(role, desk.now);
        }
    }
    assert_eq!(desk.ask("new", 4, 0), granted(Source::Evict("rare".into()), "new"));
    desk.check();
}

#[test]
fn a_tenant_at_its_ceiling_waits_though_permits_are_free() {
    let mut desk = Desk::new(4);
    assert_eq!(desk.ask("a", 1, 0), granted(Source::Cold, "a"));
    assert!(matches!(desk.ask("a", 1, 1), Answer::Queued { at_ceiling: true, .. }));
    assert_eq!(desk.warm("a", desk.now), [(1, Source::Warm)]);
    desk.check();
}

#[test]
fn a_connection_serves_its_own_waiters_for_one_quantum_and_then_goes_round() {
    let mut desk = Desk::new(1);
    let turn = desk.now;
    desk.ask("a", 4, 0);
    (1..=2).for_each(|w| assert!(matches!(desk.ask("a", 4, w), Answer::Queued { .. })));
    (10..=11).for_each(|w| assert!(matches!(desk.ask("b", 4, w), Answer::Queued { .. })));
    desk.ask("c", 4, 20);
    desk.wait(QUANTUM / 2);
    assert_eq!(desk.warm("a", turn), [(1, Source::Warm)], "a login saved");
    desk.wait(QUANTUM);
    assert_eq!(desk.warm("a", turn), [(10, Source::Evict("a".into()))], "a's quantum is over");
    let turn = desk.now;
    assert_eq!(desk.warm("b", turn), [(11, Source::Warm)], "b's begins");
    assert_eq!(desk.warm("b", turn), [(20, Source::Evict("b".into()))], "no more of b, so c before a");
    assert_eq!(desk.warm("c", desk.now), [(2, Source::Evict("c".into()))]);
    desk.check();
}

#[test]
fn the_rich_yield_at_once_and_cannot_take_a_neighbours_warm_connection() {
    let mut desk = Desk::new(4);
    (0..4).for_each(|w| drop(desk.ask("noisy", 9, w)));
    (4..40).for_each(|w| drop(desk.ask("noisy", 9, w)));
    desk.ask("quiet", 4, 100);
    assert_eq!(
        desk.warm("noisy", desk.now),
        [(100, Source::Evict("noisy".into()))],
        "no quantum for the rich"
    );
    assert_eq!(desk.warm("quiet", desk.now), [], "it stays the neighbour's");
    assert_eq!(desk.ask("quiet", 4, 101), granted(Source::Warm, "quiet"), "and serves it without a login");
    assert_eq!(desk.warm("quiet", desk.now), []);
    desk.wait(QUIET);
    let grants = desk.ledger.dispatch(desk.now);
    assert_eq!(grants.len(), 1, "gone quiet, it goes to those who wait");
    desk.check();
}

impl Desk {
    /// One request from beginning to end, by which nobody waits.
    fn visit(&mut self, role: &str) -> Source<Arc<str>> {
        let Answer::Granted { source, .. } = self.ask(role, 4, 0) else { panic!("{role} had to wait") };
        assert_eq!(self.warm(role, self.now), []);
        source
    }
}

/// Shown to fail: without `History`, "busy" comes back worth one use and gives way to "new".
#[test]
fn a_busy_tenant_that_lost_its_last_connection_comes_back_busy() {
    let mut desk = Desk::new(2);
    (0..9).for_each(|_| drop(desk.visit("busy")));
    assert_eq!(desk.ledger.borrow_idle("busy"), 1);
    assert_eq!(desk.ledger.restore_idle("busy", 0, 1, desk.now).len(), 0);
    assert_eq!(desk.visit("busy"), Source::Cold);
    (0..3).for_each(|_| drop(desk.visit("sometimes")));
    assert_eq!(desk.visit("new"), Source::Evict("sometimes".into()));
    assert_eq!(desk.visit("newer"), Source::Evict("new".into()), "a visitor's is the next to go");
    desk.check();
}

/// Shown to fail: with the worth shared out among a tenant's connections, the quiet tenant's only one goes.
#[test]
fn the_seldom_needed_second_connection_of_a_busy_tenant_goes_first() {
    let mut desk = Desk::new(3);
    (0..50).for_each(|_| drop(desk.visit("busy")));
    desk.ask("busy", 4, 0);
    desk.ask("busy", 4, 0);
    desk.warm("busy", desk.now);
    desk.warm("busy", desk.now);
    (0..3).for_each(|_| drop(desk.visit("quiet")));
    assert_eq!(desk.visit("new"), Source::Evict("busy".into()));
    assert_eq!(desk.visit("busy"), Source::Warm);
    desk.check();
}

/// Shown to fail: without `grow_after`, the second request takes the quiet neighbour's connection at once.
#[test]
fn one_who_has_a_connection_waits_for_it_before_another_tenants_is_closed() {
    let mut desk = Desk::new(2);
    desk.visit("quiet");
    desk.wait(QUIET);
    let turn = desk.now;
    assert_eq!(desk.ask("busy", 4, 0), granted(Source::Cold, "busy"));
    assert!(matches!(desk.ask("busy", 4, 1), Answer::Queued { at_ceiling: false, .. }));
    desk.wait(GROW / 2);
    assert_eq!(desk.ledger.dispatch(desk.now).len(), 0);
    assert_eq!(desk.warm("busy", turn), [(1, Source::Warm)], "its own was back in time");
    assert!(matches!(desk.ask("busy", 4, 2), Answer::Queued { at_ceiling: false, .. }));
    desk.wait(GROW);
    let grants = desk.ledger.dispatch(desk.now);
    assert_eq!(grants.len(), 1, "it was not");
    assert_eq!(grants[0].source, Source::Evict("quiet".into()));
    desk.check();
}

/// Zipf's law with exponent 1 over 1,000 tenants, one request after another, 5,000 a second. No policy can know more
/// than how often each tenant asks, and so none hits more often than one that keeps the `budget` busiest.
///
/// Shown to fail: without `History` 0.755 with 200 connections, where 0.785 is the best; when only the last use counts
/// 0.866 with 500, where 0.907 is.
#[test]
fn the_busiest_tenants_keep_their_connections() {
    for budget in [500, 200] {
        let weights: Vec<f64> = (1..=1_000).map(|rank| 1.0 / f64::from(rank)).collect();
        let total: f64 = weights.iter().sum();
        let best = weights[..budget].iter().sum::<f64>() / total;
        let roles: Vec<String> = (0..1_000).map(|rank| format!("t{rank}")).collect();
        let cumulated: Vec<f64> = weights
            .iter()
            .scan(0.0, |sum, weight| {
                *sum += weight / total;
                Some(*sum)
            })
            .collect();
        let mut desk = Desk::new(budget);
        let (mut state, mut hits) = (1_u64, 0);
        let (warm_up, count) = (50_000, 50_000);
        for number in 0..warm_up + count {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let draw = (state >> 11) as f64 / (1_u64 << 53) as f64;
            let rank = cumulated.partition_point(|sum| *sum < draw).min(999);
            let source = desk.visit(&roles[rank]);
            hits += usize::from(number >= warm_up && source == Source::Warm);
            desk.wait(Duration::from_micros(200));
        }
        let rate = hits as f64 / f64::from(count);
        assert!(rate > best - 0.02, "{rate:.3} of {best:.3} with {budget} connections");
        desk.check();
    }
}

#[test]
fn one_who_gives_up_leaves_the_queue_and_the_order_of_the_others() {
    let mut desk = Desk::new(1);
    desk.ask("a", 4, 0);
    let Answer::Queued { id, .. } = desk.ask("b", 4, 1) else { panic!("granted") };
    desk.ask("b", 4, 2);
    desk.ask("c", 4, 3);
    assert!(desk.ledger.cancel("b", id, desk.now) && !desk.ledger.cancel("b", id, desk.now));
    assert_eq!(desk.warm("a", desk.now), [(2, Source::Evict("a".into()))]);
    desk.check();
}

#[derive(Clone, Debug)]
enum Step {
    Ask { tenant: u8, ceiling: usize },
    Release { nth: usize, warm: bool },
    Cancel { nth: usize },
    Sweep { tenant: u8, keep: usize },
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6u8, 1..5usize).prop_map(|(tenant, ceiling)| Step::Ask { tenant, ceiling }),
        4 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(nth, warm)| Step::Release { nth, warm }),
        1 => any::<usize>().prop_map(|nth| Step::Cancel { nth }),
        1 => (0..6u8, 0..2usize).prop_map(|(tenant, keep)| Step::Sweep { tenant, keep }),
        1 => (0..300u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    /// Whatever happens in whatever order: no permit leaks, nobody who could be served is left waiting, each tenant is
    /// served in order.
    #[test]
    fn the_books_always_balance(budget in 1..6usize, steps in prop::collection::vec(step(), 1..200)) {
        let mut desk = Desk::new(budget);
        let mut seats: Vec<(String, Instant)> = Vec::new();
        let mut queued: Vec<(String, u64, u32)> = Vec::new();
        let mut last: BTreeMap<String, u32> = BTreeMap::new();
        for (number, step) in (0u32..).zip(steps) {
            let mut grants = Vec::new();
            match step {
                Step::Ask { tenant, ceiling } => {
                    let role = format!("t{tenant}");
                    match desk.ask(&role, ceiling, number) {
                        Answer::Granted { .. } => seats.push((role, desk.now)),
                        Answer::Queued { id, .. } => queued.push((role, id, number)),
                        Answer::Full => unreachable!(),
                    }
                    // A raised ceiling takes effect with the next hand-out.
                    grants = desk.ledger.dispatch(desk.now);
                }
                Step::Release { nth, warm } if !seats.is_empty() => {
                    let (role, turn) = seats.swap_remove(nth % seats.len());
                    grants = desk.ledger.release(&role, warm, turn, desk.now);
                }
                Step::Cancel { nth } if !queued.is_empty() => {
                    let (role, id, _) = queued.remove(nth % queued.len());
                    prop_assert!(desk.ledger.cancel(&role, id, desk.now));
                }
                Step::Sweep { tenant, keep } => {
                    let role = format!("t{tenant}");
                    let idle = desk.ledger.borrow_idle(&role);
                    let keep = keep.min(idle);
                    grants = desk.ledger.restore_idle(&role, keep, idle - keep, desk.now);
                }
                Step::Wait { ms } => desk.wait(Duration::from_millis(ms)),
                _ => {}
            }
            for grant in grants {
                let at = queued.iter().position(|(_, _, waiter)| *waiter == grant.waiter).expect("it waited");
                let (role, _, waiter) = queued.remove(at);
                prop_assert!(last.insert(role.clone(), waiter).is_none_or(|before| before < waiter), "FIFO");
                seats.push((role, grant.turn));
            }
            desk.check();
        }
        // Everyone is served in the end, and everything comes back.
        while let Some((role, turn)) = seats.pop() {
            for grant in desk.ledger.release(&role, false, turn, desk.now) {
                let at = queued.iter().position(|(_, _, waiter)| *waiter == grant.waiter).expect("it waited");
                seats.push((queued.remove(at).0, grant.turn));
            }
            desk.check();
        }
        prop_assert!(queued.is_empty());
    }
}
