//! Instructions of the hot path, counted by callgrind and compared with what was recorded. A count hardly changes from
//! run to run or with the machine's load, so a few percent more mean that somebody made the path longer.
//!
//! This program is started again under valgrind for each case, once for so many rounds and once for twice as many: the
//! difference is what a round takes, without the start.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use freehold::testkit::figures::Goal;
use freehold::testkit::floors::Floors;
use freehold::testkit::program::{Args, Outcome};
use serde_json::json;

use crate::hot::CASES;

/// Rounds of the shorter run; a whole number of turns of the tenants in `hot`.
const ROUNDS: usize = 1_024;
/// How many more instructions than recorded pass: hash seeds and the time of day make a percent or two.
const TOLERANCE: f64 = 1.05;
/// Asks this program for one case instead of its sections: `<rounds>:<case>`.
const ASKED: &str = "FREEHOLD_BENCH_HOT";

/// Does the case that the environment asks for, if any.
pub fn asked() -> Option<ExitCode> {
    let asked = std::env::var(ASKED).ok()?;
    let (rounds, case) = asked.split_once(':')?;
    let (_, work) = CASES.iter().find(|(name, _)| *name == case)?;
    work(rounds.parse().ok()?);
    Some(ExitCode::SUCCESS)
}

pub async fn measure(args: &Args) -> Outcome {
    let mut floors = Floors::load();
    let here = std::env::consts::ARCH;
    let mut outcome = Outcome::default();
    let Some(version) = valgrind() else {
        outcome.lines.push("valgrind is missing: no instruction was counted, and no gate passed.".to_owned());
        outcome.lines.push("Install it with: scripts/install-deps.sh --bench".to_owned());
        outcome.goals = CASES.iter().map(|(case, _)| Goal::unchecked(*case, "valgrind is missing")).collect();
        return outcome;
    };
    let comparable = floors.architecture == here;
    outcome.lines.push(format!("{version}, {here}; instructions a round (recorded)"));
    let mut counts = std::collections::BTreeMap::new();
    for (case, _) in CASES {
        let counted = count(case, 2 * ROUNDS).saturating_sub(count(case, ROUNDS)) / ROUNDS as u64;
        counts.insert((*case).to_owned(), counted);
        let recorded = floors.instructions.get(*case).copied().filter(|_| comparable);
        let known = recorded.map_or_else(|| "none".to_owned(), |recorded| recorded.to_string());
        outcome.lines.push(format!("  {case:<40} {counted:>9}  ({known})"));
        outcome.goals.push(match recorded {
            _ if args.record => continue,
            Some(recorded) => {
                let share = counted as f64 / recorded as f64;
                Goal::at_most(format!("instructions, {case}"), share, TOLERANCE, "of recorded").must()
            }
            None => Goal::unchecked(format!("instructions, {case}"), "none recorded for this architecture"),
        });
    }
    outcome.facts = json!({ "instructions": &counts });
    if args.record {
        floors.architecture = here.to_owned();
        floors.instructions = counts;
        floors.store();
        outcome.lines.push("recorded in benches/floors.toml".to_owned());
    }
    outcome
}

/// `valgrind-3.19.0`, if it is there.
fn valgrind() -> Option<String> {
    let said = Command::new("valgrind").arg("--version").output().ok()?;
    said.status.success().then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// The instructions of a whole process that does so many rounds of a case.
fn count(case: &str, rounds: usize) -> u64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out");
    let said = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().expect("this program"))
        .env(ASKED, format!("{rounds}:{case}"))
        .stdin(Stdio::null())
        .output()
        .expect("valgrind runs");
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{case}: {text}");
    total(&out).unwrap_or_else(|| panic!("{case}: callgrind counted nothing: {text}"))
}

/// The line `summary: 123` or `totals: 123` of callgrind's file.
fn total(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let figure = |line: &str| {
        line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")).map(str::to_owned)
    };
    text.lines().filter_map(figure).next_back()?.trim().parse().ok()
}
