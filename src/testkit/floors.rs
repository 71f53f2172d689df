//! The regression gate: for each ratio of `make bench` the worst that was accepted, and for each piece of the hot path
//! the instructions it took, kept in `benches/floors.toml`. Ratios and counts only: both mean the same on any machine,
//! which times do not.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use serde::Deserialize;

use super::figures::{Bound, Goal};

/// How much worse than it was measured a ratio may become, when it is recorded: what noise is known to do.
const MARGIN: f64 = 1.2;
/// The unit of figures that the gate looks at.
pub const RATIO: &str = "×";

/// What is kept. Edit it by hand or with `--record`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floors {
    /// By program and figure: the worst ratio that passes.
    #[serde(default)]
    pub ratios: BTreeMap<String, BTreeMap<String, f64>>,
    /// Where the instructions were counted: `x86_64`.
    #[serde(default)]
    pub architecture: String,
    /// By case: instructions of one round.
    #[serde(default)]
    pub instructions: BTreeMap<String, u64>,
}

/// What the gate says of a goal.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Not a ratio, or one that could not be measured.
    Ignored,
    Passed,
    /// Measured, and nothing is recorded to compare it with.
    Unrecorded,
    /// Worse than this.
    Worse(f64),
}

impl Floors {
    fn file() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/floors.toml")
    }

    /// Reads the file; empty when there is none.
    ///
    /// # Panics
    /// When it makes no sense: a gate that was taken for open would be none.
    pub fn load() -> Self {
        match std::fs::read_to_string(Self::file()) {
            Ok(text) => toml::from_str(&text).expect("benches/floors.toml"),
            Err(_) => Self::default(),
        }
    }

    /// Writes the file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn store(&self) {
        std::fs::write(Self::file(), self.render()).expect("benches/floors.toml can be written");
    }

    pub fn judge(&self, program: &str, goal: &Goal) -> Verdict {
        if goal.unit != RATIO || goal.unchecked.is_some() {
            return Verdict::Ignored;
        }
        let Some(floor) = self.ratios.get(program).and_then(|ratios| ratios.get(&goal.what)) else {
            return Verdict::Unrecorded;
        };
        let fine = match goal.bound {
            Bound::AtMost(_) => goal.measured <= *floor,
            Bound::AtLeast(_) => goal.measured >= *floor,
        };
        if fine { Verdict::Passed } else { Verdict::Worse(*floor) }
    }

    /// Accepts a ratio as it was measured, with the margin.
    pub fn record(&mut self, program: &str, goal: &Goal) {
        if goal.unit != RATIO || goal.unchecked.is_some() {
            return;
        }
        let floor = match goal.bound {
            Bound::AtMost(_) => goal.measured * MARGIN,
            Bound::AtLeast(_) => goal.measured / MARGIN,
        };
        let floor = (floor * 1_000.0).round() / 1_000.0;
        self.ratios.entry(program.to_owned()).or_default().insert(goal.what.clone(), floor);
    }

    fn render(&self) -> String {
        let mut text = String::from(
            "# What the regression gate of `make bench` compares with. `make bench ARGS=--record` writes it anew, for the\n\
             # sections that ran; a ratio is recorded with a margin of a fifth, a count as it is.\n\n\
             # Where the instructions were counted.\n",
        );
        // Debug quotes as TOML does, for anything that is printed on one line.
        writeln!(text, "architecture = {:?}", self.architecture).ok();
        for (program, ratios) in &self.ratios {
            writeln!(text, "\n# The worst ratio that passes.\n[ratios.{program:?}]").ok();
            for (what, floor) in ratios {
                writeln!(text, "{what:?} = {floor:?}").ok();
            }
        }
        writeln!(text, "\n# Instructions of one round of each case in benches/bench/hot.rs.\n[instructions]")
            .ok();
        for (case, count) in &self.instructions {
            writeln!(text, "{case:?} = {count}").ok();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_compared_on_its_side() {
        let mut floors = Floors::default();
        let (most, least) = (Goal::at_most("slow", 1.2, 1.5, RATIO), Goal::at_least("fast", 0.9, 0.8, RATIO));
        assert_eq!(floors.judge("bench", &most), Verdict::Unrecorded);
        floors.record("bench", &most);
        floors.record("bench", &least);
        assert_eq!(floors.judge("bench", &most), Verdict::Passed);
        assert_eq!(floors.judge("bench", &Goal::at_most("slow", 1.45, 1.5, RATIO)), Verdict::Worse(1.44));
        assert_eq!(floors.judge("bench", &Goal::at_least("fast", 0.74, 0.8, RATIO)), Verdict::Worse(0.75));
        assert_eq!(floors.judge("soak", &most), Verdict::Unrecorded);
        assert_eq!(floors.judge("bench", &Goal::at_most("slow", 9.0, 1.5, "ms")), Verdict::Ignored);
        assert_eq!(floors.judge("bench", &Goal::unchecked("slow", "no tool")), Verdict::Ignored);
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut floors = Floors { architecture: "x86_64".to_owned(), ..Floors::default() };
        floors.record("bench", &Goal::at_most("a \"quoted\" figure / another, p50", 1.0, 2.0, RATIO));
        floors.instructions.insert("key: parse".to_owned(), 4_711);
        assert_eq!(toml::from_str::<Floors>(&floors.render()).unwrap(), floors);
        assert_eq!(toml::from_str::<Floors>(&Floors::default().render()).unwrap(), Floors::default());
    }

    /// The checked-in file is one that can be read.
    #[test]
    fn the_file_reads() {
        Floors::load();
    }
}
