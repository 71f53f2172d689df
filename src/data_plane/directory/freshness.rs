//! When a cached entry may be served. Pure.

use std::time::Duration;

/// Younger than this, an entry is served as it is.
pub const FRESH: Duration = Duration::from_secs(15);
/// Older than this, it is looked up again before it is served.
pub const STALE: Duration = Duration::from_secs(60);
/// The same while no notifications arrive: then age is the only guard, so it is short.
pub const STALE_UNHEARD: Duration = Duration::from_secs(1);
/// A key not confirmed for this long is refused even while the control database is down. A tenant has no such limit:
/// its shard does the fencing. A key's revocation exists nowhere but in the control database.
pub const KEY_UNCONFIRMED: Duration = Duration::from_secs(3600);

/// What to do with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Serve,
    /// Serve now, look it up again meanwhile.
    ServeAndRefresh,
    /// Look it up first; serve the old one if that fails.
    Refresh,
}

/// What is known about the road to the control database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Notifications arrive.
    pub listening: bool,
    /// The last lookup succeeded. After a failed one nobody waits for another: one request a second tries in the
    /// background, so that an outage costs running tenants nothing.
    pub reachable: bool,
}

pub fn judge(age: Duration, doubted: bool, weather: Weather) -> Verdict {
    let stale = if weather.listening { STALE } else { STALE_UNHEARD };
    match (doubted || age > stale, weather.reachable) {
        (true, true) => Verdict::Refresh,
        (true, false) => Verdict::ServeAndRefresh,
        (false, _) if age > FRESH => Verdict::ServeAndRefresh,
        (false, _) => Verdict::Serve,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        let fine = Weather { listening: true, reachable: true };
        let deaf = Weather { listening: false, ..fine };
        let down = Weather { listening: false, reachable: false };
        let s = Duration::from_secs;
        for (age, doubted, weather, want) in [
            (s(0), false, fine, Verdict::Serve),
            (s(15), false, fine, Verdict::Serve),
            (s(16), false, fine, Verdict::ServeAndRefresh),
            (s(60), false, fine, Verdict::ServeAndRefresh),
            (s(61), false, fine, Verdict::Refresh),
            (s(0), true, fine, Verdict::Refresh),
            (s(1), false, deaf, Verdict::Serve),
            (s(2), false, deaf, Verdict::Refresh),
            (s(0), false, down, Verdict::Serve),
            (s(0), true, down, Verdict::ServeAndRefresh),
            (s(36_000), false, down, Verdict::ServeAndRefresh),
        ] {
            assert_eq!(judge(age, doubted, weather), want, "{age:?} doubted={doubted} {weather:?}");
        }
    }
}
