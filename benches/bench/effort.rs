//! CPU time, by who spent it. In a closed loop on a busy machine requests per second are what others leave; the CPU time
//! of a request is its own.

use std::collections::HashMap;
use std::fs;

use serde::Serialize;

/// CPU seconds used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effort {
    /// This process, the generator's threads included.
    own: f64,
    /// Its children: PostgreSQL and Redis.
    servers: f64,
}

/// Microseconds of CPU time a request.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PerRequest {
    pub server: f64,
    pub generator: f64,
    pub postgres_and_redis: f64,
}

impl PerRequest {
    /// All but the generator's.
    pub fn served(&self) -> f64 {
        self.server + self.postgres_and_redis
    }
}

/// What this thread has used, in seconds.
pub fn of_this_thread() -> f64 {
    on_cpu("/proc/thread-self/schedstat")
}

/// Nanoseconds on a CPU, the first figure of a `schedstat`; 0 for one that has ended.
fn on_cpu(file: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// What a process and all below it have used, in seconds.
pub fn of_all(root: u32) -> f64 {
    of_process(root) + of_those_below(root)
}

fn of_those_below(root: u32) -> f64 {
    let parents = parents();
    let is_below = |mut pid: u32| loop {
        match parents.get(&pid) {
            Some(&parent) if parent == root => return true,
            Some(&parent) if parent > 1 => pid = parent,
            _ => return false,
        }
    };
    parents.keys().copied().filter(|pid| is_below(*pid)).map(of_process).sum()
}

impl Effort {
    pub fn now() -> Self {
        let own = std::process::id();
        Self { own: of_process(own), servers: of_those_below(own) }
    }

    /// What was used since `before` for so many requests. The generator's thread has ended, and its seconds, which it
    /// took itself, are no longer in this process's.
    pub fn since(self, before: Self, generator: f64, requests: usize) -> PerRequest {
        let each = |seconds: f64| seconds * 1e6 / requests.max(1) as f64;
        PerRequest {
            server: each(self.own - before.own),
            generator: each(generator),
            postgres_and_redis: each(self.servers - before.servers),
        }
    }
}

/// All its threads together; those that have ended no longer count.
fn of_process(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.map(|thread| on_cpu(&format!("{}/schedstat", thread.path().display()))).sum()
}

fn parents() -> HashMap<u32, u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in brackets and may hold anything; the state and the parent follow it.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    })
    .collect()
}
