//! Processor time, of this process and of a PostgreSQL server with the sessions that have ended.

use std::path::Path;
use std::time::Duration;

use crate::local::PostgresServer;

/// What this process has used until now.
pub fn of_this_process() -> Duration {
    let own = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    ticks(&own, 2)
}

/// What the server's first process and all of its children that have ended have used until now. A session counts from
/// its end on.
pub fn of_ended_sessions(server: &PostgresServer) -> Duration {
    let data = server.log().parent().unwrap_or(Path::new("/")).join("data/postmaster.pid");
    let file = std::fs::read_to_string(data).unwrap_or_default();
    let pid = file.lines().next().unwrap_or_default();
    ticks(&std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default(), 4)
}

/// The sum of the first `count` of user, system, children's user and children's system time.
fn ticks(stat: &str, count: usize) -> Duration {
    // The second field is the program's name in brackets, which may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        rest.split_whitespace().skip(11).take(count).filter_map(|field| field.parse::<u64>().ok()).sum();
    // Linux tells users ticks of a hundredth, whatever its own are.
    Duration::from_millis(ticks * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_may_hold_brackets() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 1000 100 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat, 2), Duration::from_secs(2));
        assert_eq!(ticks(stat, 4), Duration::from_secs(13));
    }
}
