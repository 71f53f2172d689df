//! What a measurement says: its middle, its spread, and whether it reaches its goal.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// The spread of one series, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    pub samples: usize,
    pub min: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spread {
    /// All zero for no samples.
    pub fn of(samples: &[Duration]) -> Self {
        let mut sorted: Vec<f64> = samples.iter().map(|sample| sample.as_secs_f64() * 1_000.0).collect();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return Self::default() };
        // The nearest rank: a value that was really seen.
        let at = |percent: usize| sorted[(last * percent).div_ceil(100)];
        Self { samples: sorted.len(), min: at(0), p50: at(50), p95: at(95), p99: at(99), max: at(100) }
    }

    /// A row for people, as wide as [`Spread::HEAD`].
    pub fn row(&self) -> String {
        let Self { samples, min, p50, p95, p99, max } = self;
        format!("{samples:>8} {min:>9.2} {p50:>9.2} {p95:>9.2} {p99:>9.2} {max:>9.2}")
    }

    /// The heads of a row's columns.
    pub const HEAD: &str = "       n       min       p50       p95       p99       max";
}

/// A figure with a goal: at most that.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    pub what: &'static str,
    pub measured: f64,
    pub at_most: f64,
    pub unit: &'static str,
    pub reached: bool,
}

impl Goal {
    pub fn new(what: &'static str, measured: f64, at_most: f64, unit: &'static str) -> Self {
        Self { what, measured, at_most, unit, reached: measured <= at_most }
    }

    pub fn row(&self) -> String {
        let Self { what, measured, at_most, unit, reached } = self;
        let verdict = if *reached { "reached" } else { "SHORT  <<<<" };
        format!("{what:<52} {measured:>8.2} {unit:<2}  (goal: at most {at_most} {unit})  {verdict}")
    }
}

/// The load of the machine over the last minute, which a figure is worth little without.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

/// Writes what was measured to `target/bench/<name>.json` and gives the place.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(name: &str, figures: &impl Serialize) -> std::io::Result<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}.json"));
    std::fs::write(&file, serde_json::to_vec_pretty(figures)?)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_values_that_were_seen() {
        let samples: Vec<_> = (1..=101).map(Duration::from_millis).collect();
        let spread = Spread::of(&samples);
        assert_eq!((spread.min, spread.p50, spread.p95, spread.max), (1.0, 51.0, 96.0, 101.0));
        assert_eq!(Spread::of(&[]).samples, 0);
        assert!(!Goal::new("x", 1.6, 1.5, "×").reached);
    }
}
