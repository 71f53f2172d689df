//! What a measurement says: its middle, its spread, and whether it reaches its goal.

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

/// The middle one of some figures, with the least and the greatest: what interleaved rounds come to.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Median {
    pub rounds: usize,
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Median {
    /// All zero for no figures.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return Self::default() };
        let median = f64::midpoint(sorted[last / 2], sorted[last.div_ceil(2)]);
        Self { rounds: sorted.len(), min: sorted[0], median, max: sorted[last] }
    }
}

impl std::fmt::Display for Median {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} ({:.3} to {:.3})", self.median, self.min, self.max)
    }
}

/// On which side of its limit a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// A figure with a goal.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    pub what: String,
    pub measured: f64,
    pub bound: Bound,
    pub unit: &'static str,
    pub reached: bool,
    /// Whether missing it is a malfunction (a wrong answer, a lost write), and not only slow.
    pub must: bool,
    /// Why it could not be measured here. Then it is neither reached nor missed.
    pub unchecked: Option<String>,
}

impl Goal {
    pub fn at_most(what: impl Into<String>, measured: f64, limit: f64, unit: &'static str) -> Self {
        let (bound, reached) = (Bound::AtMost(limit), measured <= limit);
        Self { what: what.into(), measured, bound, unit, reached, must: false, unchecked: None }
    }

    pub fn at_least(what: impl Into<String>, measured: f64, limit: f64, unit: &'static str) -> Self {
        let (bound, reached) = (Bound::AtLeast(limit), measured >= limit);
        Self { what: what.into(), measured, bound, unit, reached, must: false, unchecked: None }
    }

    /// Something that may never happen, and how often it did.
    pub fn never(what: impl Into<String>, count: usize) -> Self {
        Self { must: true, ..Self::at_most(what, count as f64, 0.0, "") }
    }

    /// Something that should have been measured and could not be.
    pub fn unchecked(what: impl Into<String>, why: impl Into<String>) -> Self {
        let unchecked = Some(why.into());
        Self { reached: false, unchecked, ..Self::at_most(what, f64::NAN, f64::NAN, "") }
    }

    /// Missing it ends the program with an error.
    pub fn must(self) -> Self {
        Self { must: true, ..self }
    }

    pub fn row(&self) -> String {
        let Self { what, measured, bound, unit, reached, must, unchecked } = self;
        if let Some(why) = unchecked {
            return format!("{what:<58} NOT CHECKED <<<<  {why}");
        }
        let (side, limit) = match bound {
            Bound::AtMost(limit) => ("at most", limit),
            Bound::AtLeast(limit) => ("at least", limit),
        };
        let verdict = match (reached, must) {
            (true, _) => "reached",
            (false, false) => "SHORT  <<<<",
            (false, true) => "BROKEN <<<<",
        };
        let measured = if measured.fract() == 0.0 { format!("{measured}") } else { format!("{measured:.3}") };
        format!("{what:<58} {measured:>10} {unit:<3} (goal: {side} {limit})  {verdict}")
    }
}

/// The load of the machine over the last minute, which a figure is worth little without.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
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
    }

    #[test]
    fn a_median_is_the_middle() {
        assert_eq!(Median::of([3.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(Median::of([4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Median::of([]).rounds, 0);
    }

    #[test]
    fn a_goal_has_a_side() {
        assert!(!Goal::at_most("x", 1.6, 1.5, "×").reached);
        assert!(Goal::at_least("x", 1.6, 1.5, "×").reached);
        assert!(Goal::never("x", 0).reached && !Goal::never("x", 1).reached);
    }
}
