//! The frame of `make bench`, `make soak` and `make chaos`: sections that run one after the other, a table for people,
//! JSON for machines, an end in bounded time.
//!
//! Each section has a process of its own, and so servers of its own: ten thousand tables that one leaves behind, and the
//! autovacuum that goes through them, are not measured by the next.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::figures::{Goal, Spread, load_average};
use super::floors::{Floors, Verdict};
use crate::local::binaries::Places;

/// The program whose ratios are kept and compared.
const GATED: &str = "bench";

/// What the caller asked for.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true)]
pub struct Args {
    /// Only these sections, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// List the sections and stop
    #[arg(long)]
    pub list: bool,
    /// Print the figures as JSON instead of tables
    #[arg(long)]
    pub json: bool,
    /// Shrink counts and durations: 0.1 is a tenth. Figures of a small run say little
    #[arg(long, default_value_t = 1.0)]
    pub scale: f64,
    /// Accept the ratios and instruction counts of this run: the gate compares with them from now on
    #[arg(long)]
    pub record: bool,
    /// Run one section in this process and write what it found there: how the program calls itself
    #[arg(long, hide = true)]
    part: Option<PathBuf>,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// A count at the asked scale, at least 1.
    pub fn count(&self, full: usize) -> usize {
        ((full as f64 * self.scale) as usize).max(1)
    }

    /// A duration at the asked scale.
    pub fn time(&self, full: Duration) -> Duration {
        full.mul_f64(self.scale)
    }
}

/// What a section found.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// In words, a line each: what was done, to how much, what came of it.
    pub lines: Vec<String>,
    /// Latencies.
    pub series: Vec<(String, Spread)>,
    pub goals: Vec<Goal>,
    /// Whatever else a machine may want.
    pub facts: Value,
}

/// A section's work.
pub type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// One part of a program. It starts what it needs and leaves nothing running.
pub struct Section {
    pub name: &'static str,
    pub about: &'static str,
    pub run: for<'a> fn(&'a Args) -> Running<'a>,
}

#[derive(Serialize)]
struct Done {
    section: &'static str,
    seconds: f64,
    load_before: f64,
    load_after: f64,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize)]
struct Report {
    program: &'static str,
    machine: Machine,
    scale: f64,
    sections: Vec<Value>,
}

/// What a section's process hands over.
#[derive(Serialize, Deserialize)]
struct Part {
    /// A [`Done`].
    done: Value,
    /// A line for each goal.
    goals: Vec<String>,
}

/// Where the figures were measured.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub memory_gib: u64,
    pub postgres: String,
}

impl Machine {
    fn look() -> Self {
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let postgres = postgres_version().unwrap_or_else(|| "no PostgreSQL".to_owned());
        Self { cores, memory_gib: kib.div_ceil(1 << 20), postgres }
    }
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`
fn postgres_version() -> Option<String> {
    let postgres = Places::system().postgres().ok()?;
    let said = std::process::Command::new(postgres.program("postgres")).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// Sections that are not like the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Special<'a> {
    /// They begin at the start, and run beside the others.
    pub beside: &'a [&'a str],
    /// They run only when they are named, and have twice as long as all others together, each.
    pub by_name: &'a [&'a str],
}

/// Runs the sections that were asked for, prints, and writes `target/bench/<name>.json`. Fails when a section has a
/// broken `must` or a ratio that is worse than recorded, panics, or when all together do not end within `limit`.
pub fn main(name: &'static str, limit: Duration, sections: &[Section], special: Special<'_>) -> ExitCode {
    let args = Args::parse();
    let by_name = |section: &Section| special.by_name.contains(&section.name);
    if args.list {
        for section in sections {
            let when = if by_name(section) { " (only with --only)" } else { "" };
            println!("{:<12} {}{when}", section.name, section.about);
        }
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) =
        args.only.iter().find(|asked| sections.iter().all(|section| section.name != **asked))
    {
        eprintln!("there is no section {unknown:?}; --list shows them");
        return ExitCode::from(2);
    }
    let asked = |section: &&Section| match args.only.as_slice() {
        [] => !by_name(section),
        only => only.iter().any(|name| section.name == *name),
    };
    let asked: Vec<&Section> = sections.iter().filter(asked).collect();
    let whole = match (&args.part, asked.as_slice()) {
        (Some(file), [section]) => {
            let limit = if by_name(section) { limit * 2 } else { limit };
            part(name, &args, section, limit, file)
        }
        (Some(_), _) => panic!("one section to a process"),
        (None, _) => {
            let (long, others): (Vec<&Section>, Vec<&Section>) =
                asked.iter().copied().partition(|section| by_name(section));
            let times = 2 * long.len() + usize::from(!others.is_empty());
            let end = Instant::now() + limit * u32::try_from(times).unwrap_or(1);
            all(name, &args, &asked, special.beside, end)
        }
    };
    if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs each section in a process of its own, and puts together what they found.
fn all(name: &'static str, args: &Args, sections: &[&Section], beside: &[&str], end: Instant) -> bool {
    let mut report =
        Report { program: name, machine: Machine::look(), scale: args.scale, sections: Vec::new() };
    let Machine { cores, memory_gib, postgres } = &report.machine;
    eprintln!("{name}: {cores} cores, {memory_gib} GiB, {postgres}");
    let mut begun: Vec<Call> = sections
        .iter()
        .filter(|section| beside.contains(&section.name))
        .map(|section| Call::begin(name, args, section))
        .collect();
    let (mut goals, mut whole) = (Vec::new(), true);
    for section in sections {
        let call = match begun.iter().position(|call| call.section == section.name) {
            Some(early) => begun.remove(early),
            None => Call::begin(name, args, section),
        };
        let (passed, part) = call.finish(end);
        whole &= passed;
        match part {
            Some(part) => {
                report.sections.push(part.done);
                goals.extend(part.goals);
            }
            None => goals.push(format!("{:<58} DID NOT END <<<<", section.name)),
        }
        // After each section, so that a later one that hangs takes nothing away.
        write(&folder().join(format!("{name}.json")), &report);
    }
    if args.json {
        println!("{:#}", serde_json::to_value(&report).expect("plain figures"));
    } else {
        println!("\nall goals\n");
        goals.iter().for_each(|goal| println!("  {goal}"));
        println!("\n{}", folder().join(format!("{name}.json")).display());
    }
    whole
}

/// This program at work on one section.
struct Call {
    section: &'static str,
    process: Child,
    file: PathBuf,
}

impl Call {
    fn begin(name: &str, args: &Args, section: &Section) -> Self {
        eprintln!("\n{}: {} …", section.name, section.about);
        let file = folder().join(format!("{name}-{}.json", section.name));
        let _ = std::fs::remove_file(&file);
        let mut command = Command::new(std::env::current_exe().expect("this program's file"));
        command.args(["--only", section.name, "--scale", &args.scale.to_string(), "--part"]).arg(&file);
        command.args(args.json.then_some("--json")).args(args.record.then_some("--record"));
        Self { section: section.name, process: command.spawn().expect("it can be started"), file }
    }

    /// Whether it passed, and what it found; neither when it does not end in time.
    fn finish(mut self, end: Instant) -> (bool, Option<Part>) {
        let passed = loop {
            if let Some(status) = self.process.try_wait().expect("a child of this process") {
                break status.success();
            }
            if Instant::now() >= end {
                // Its servers end with it.
                let _ = self.process.kill();
                let _ = self.process.wait();
                eprintln!("{} did not end in time", self.section);
                break false;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let part = std::fs::read(&self.file).ok().and_then(|part| serde_json::from_slice(&part).ok());
        (passed && part.is_some(), part)
    }
}

/// Runs one section here.
fn part(name: &'static str, args: &Args, section: &Section, limit: Duration, file: &Path) -> bool {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (begun, load_before) = (Instant::now(), load_average());
    let Ok(outcome) = runtime.block_on(async { tokio::time::timeout(limit, (section.run)(args)).await })
    else {
        eprintln!("{} did not end within {limit:?}", section.name);
        return false;
    };
    let seconds = begun.elapsed().as_secs_f64();
    let done = Done { section: section.name, seconds, load_before, load_after: load_average(), outcome };
    if !args.json {
        print(&done);
    }
    let goals = &done.outcome.goals;
    let part = Part {
        done: serde_json::to_value(&done).expect("plain figures"),
        goals: goals.iter().map(Goal::row).collect(),
    };
    write(file, &part);
    let whole = goals.iter().all(|goal| goal.reached || !goal.must || goal.unchecked.is_some());
    whole & gate(name, args, goals.iter())
}

/// Compares ratios with the recorded ones, or records them. False when one is worse. Only what is measured to be
/// compared has floors: the ratios of a soak are looked at through its goals.
fn gate<'a>(name: &str, args: &Args, goals: impl Iterator<Item = &'a Goal>) -> bool {
    if name != GATED {
        return true;
    }
    let mut floors = Floors::load();
    if args.scale < 1.0 {
        eprintln!("\nthe regression gate is for whole runs: no ratio was compared at scale {}", args.scale);
        return true;
    }
    if args.record {
        goals.for_each(|goal| floors.record(name, goal));
        floors.store();
        return true;
    }
    let mut passed = true;
    for goal in goals {
        match floors.judge(name, goal) {
            Verdict::Ignored | Verdict::Passed => {}
            Verdict::Unrecorded => eprintln!("NOT GATED <<<<  no floor is recorded for: {}", goal.what),
            Verdict::Worse(floor) => {
                passed = false;
                eprintln!("REGRESSION <<<<  {}: {:.3}, recorded {floor}", goal.what, goal.measured);
            }
        }
    }
    if !passed {
        eprintln!("if that is meant to be so: make {name} ARGS=--record, and commit benches/floors.toml");
    }
    passed
}

fn print(done: &Done) {
    let Done { section, seconds, load_before, load_after, outcome } = done;
    println!("\n== {section}: {seconds:.0} s, load {load_before:.1} → {load_after:.1}\n");
    outcome.lines.iter().for_each(|line| println!("  {line}"));
    if !outcome.series.is_empty() {
        println!("\n  {:<40} {}   (ms)", "", Spread::HEAD);
        outcome.series.iter().for_each(|(name, spread)| println!("  {name:<40} {}", spread.row()));
    }
    if !outcome.goals.is_empty() {
        println!();
        outcome.goals.iter().for_each(|goal| println!("  {}", goal.row()));
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench")
}

fn write(file: &Path, what: &impl Serialize) {
    std::fs::create_dir_all(folder())
        .and_then(|()| std::fs::write(file, serde_json::to_vec_pretty(what).expect("plain figures")))
        .expect("target/bench can be written");
}
