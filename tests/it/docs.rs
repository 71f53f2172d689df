//! Keeps the documents true where that is cheap: what they name exists, and what they must name is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

mod commands;
mod sample;
mod settings;

const OPERATIONS: &str = "docs/OPERATIONS.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, extension, found);
        } else if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
}

/// Every document: those at the root, and all below `docs`.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    walk(&root().join("docs"), "md", &mut paths);
    for entry in std::fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|is| is == "md") {
            paths.push(path);
        }
    }
    paths.sort();
    assert!(paths.len() > 10, "only {} documents were found", paths.len());
    paths.into_iter().map(|path| (path.clone(), read(path))).collect()
}

/// All Rust sources below a folder, as one text.
fn rust_below(folder: &str) -> String {
    let mut paths = Vec::new();
    walk(&root().join(folder), "rs", &mut paths);
    paths.sort();
    paths.into_iter().map(read).collect::<Vec<_>>().join("\n")
}

/// The texts between two markers.
fn between<'a>(text: &'a str, open: &'a str, close: char) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| rest.split_once(close).map(|(inside, _)| inside))
}

/// What a document says as code: inline spans, and the lines of fenced blocks.
fn code_in(document: &str) -> Vec<&str> {
    let (mut fenced, mut found) = (false, Vec::new());
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            found.push(line.trim());
        } else {
            found.extend(line.split('`').skip(1).step_by(2));
        }
    }
    found
}

/// Words made of these characters that begin with the prefix.
fn words<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(move |word| word.starts_with(prefix))
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

fn has_anchor(document: &str, wanted: &str) -> bool {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).any(|found| found == wanted)
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut broken = Vec::new();
    for (path, text) in documents() {
        for target in between(&text, "](", ')') {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let there = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let fine = there.exists()
                && (fragment.is_empty()
                    || has_anchor(&std::fs::read_to_string(&there).unwrap_or_default(), fragment));
            if !fine {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn every_file_that_is_named_exists() {
    let folders = [
        "src/",
        "tests/",
        "docs/",
        "scripts/",
        "control-plane-migrations",
        "shard-migrations",
        "tenant-migrations",
        "infra/",
        "terraform/",
        ".github/",
    ];
    // Made by a script at the first start.
    let made = "infra/secrets";
    let mut missing = Vec::new();
    for (path, text) in documents() {
        for code in code_in(&text).into_iter().filter(|code| !code.contains(char::is_whitespace)) {
            let file = code.split("::").next().unwrap_or_default().trim_end_matches('/');
            let plain = !file.contains(['*', '<', '{', '…']) && !file.starts_with(made);
            if plain && folders.iter().any(|folder| file.starts_with(folder)) && !root().join(file).exists() {
                missing.push(format!("{}: {code}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "named in the documents and not there:\n{}", missing.join("\n"));
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|line| line.split_once(':')).map(|(target, _)| target).collect();
    for (path, text) in documents() {
        for code in code_in(&text) {
            if let Some(target) = code.strip_prefix("make ").and_then(|rest| rest.split_whitespace().next()) {
                assert!(targets.contains(target), "{}: there is no `make {target}`", path.display());
            }
        }
    }
}

#[test]
fn every_setting_that_is_named_exists_and_every_setting_is_named() {
    let sources = rust_below("src") + &read("Makefile") + &read("infra/compose.yaml");
    let known: BTreeSet<&str> = words(&sources, "FREEHOLD_").collect();
    for (path, text) in documents() {
        for setting in words(&text, "FREEHOLD_") {
            assert!(known.contains(setting), "{}: there is no setting {setting}", path.display());
        }
    }
    let (manual, flags) = (read(OPERATIONS), rust_below("src/config") + &rust_below("src/cli"));
    let told: BTreeSet<&str> = words(&manual, "FREEHOLD_").collect();
    let mut settings = 0;
    for setting in between(&flags, "env = \"", '"') {
        assert!(told.contains(setting), "{OPERATIONS} does not explain {setting}");
        settings += 1;
    }
    assert!(settings >= 10, "only {settings} settings were found in the sources");
}

#[test]
fn every_check_of_the_doctor_is_explained() {
    let (source, manual) = (read("src/control_plane/doctor.rs"), read(OPERATIONS));
    let mut checks = BTreeSet::new();
    for severity in ["Severity::Problem,", "Severity::Note,"] {
        checks.extend(
            source
                .split(severity)
                .skip(1)
                .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next()),
        );
    }
    assert!(checks.len() >= 10, "only {checks:?} were found");
    for check in checks {
        assert!(manual.contains(&format!("`{check}`")), "{OPERATIONS} does not explain the check {check}");
    }
}

#[test]
fn every_number_that_is_exported_is_explained() {
    let (sources, manual) = (rust_below("src"), read(OPERATIONS));
    for kind in ["counter!(", "gauge!(", "histogram!("] {
        for rest in sources.split(kind).skip(1) {
            let Some(name) = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next())
            else {
                continue;
            };
            assert!(manual.contains(&format!("`{name}`")), "{OPERATIONS} does not explain the metric {name}");
        }
    }
}

/// The tests that a text names (`module::test`), those that are not there among them marked by `false`.
fn tests_named<'a>(text: &'a str, tests: &str) -> Vec<(&'a str, bool)> {
    fn test_of(code: &str) -> Option<&str> {
        let snake = |text: &str| {
            text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c))
        };
        let (module, test) = code.rsplit_once("::")?;
        (snake(module) && snake(test) && !module.starts_with("src") && test.len() > 15).then_some(test)
    }
    let is_there = |test: &str| tests.contains(&format!("fn {test}("));
    code_in(text).into_iter().filter_map(|code| Some((code, is_there(test_of(code)?)))).collect()
}

/// `docs/SECURITY.md` says which test holds each guard, and `docs/BILLING.md` which shows each case: the test has to be there.
#[test]
fn every_test_that_is_named_exists() {
    let tests = rust_below("tests/it") + &rust_below("src");
    for file in ["docs/SECURITY.md", "docs/BILLING.md"] {
        let text = read(file);
        let named = tests_named(&text, &tests);
        let missing: Vec<&str> = named.iter().filter(|(_, there)| !there).map(|(code, _)| *code).collect();
        assert!(missing.is_empty(), "{file}: there are no tests {missing:?}");
        assert!(named.len() > 10, "{file}: only {} tests are named", named.len());
    }
}

/// Each case of what goes wrong with money names a test that shows what happens then.
#[test]
fn every_case_of_billing_has_a_test() {
    let page = read("docs/BILLING.md");
    let (_, cases) = page.split_once("\n## What goes wrong\n").expect("docs/BILLING.md: what goes wrong");
    let cases = cases.split("\n## ").next().unwrap_or_default();
    let rows: Vec<&str> = cases.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() >= 20, "only {} cases", rows.len());
    for row in rows {
        assert!(!tests_named(row, "").is_empty(), "docs/BILLING.md: no test shows: {row}");
    }
}

#[test]
fn every_identity_setting_that_is_shown_can_be_read() {
    for file in ["docs/IDENTITY.md", "docs/OPERATORS.md"] {
        let text = read(root().join(file));
        let blocks: Vec<&str> =
            text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!blocks.is_empty(), "{file} shows no settings");
        for block in blocks {
            freehold::identity::settings::Settings::parse(block)
                .unwrap_or_else(|error| panic!("{file}: {error}\n{block}"));
        }
    }
}

/// The code that `docs/ADOPTING.md` shows is compiled with the tests.
#[test]
fn the_sample_product_is_the_one_that_is_shown() {
    let (page, sample) = (read("docs/ADOPTING.md"), read("tests/it/docs/sample.rs"));
    let shown: Vec<&str> =
        page.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(shown.len() >= 4, "only {} samples were found", shown.len());
    for code in shown {
        assert!(
            sample.contains(code),
            "docs/ADOPTING.md shows what tests/it/docs/sample.rs does not have:\n{code}"
        );
    }
}
