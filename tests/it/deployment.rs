//! What is deployed fits what is built: the rules name numbers that are counted, the image is given every file that is
//! compiled in, and neither the compose file nor the workflow says what it must not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Rust sources that ship, with their paths.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|is| is == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join("src"), &mut found);
    found.retain(|(path, _)| !path.starts_with(root().join("src/testkit")));
    found
}

/// The first string literal after each of these markers.
fn literals<'a>(text: &'a str, marker: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(marker).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
}

/// Everything that the program can count: `name`, and what Prometheus makes of a histogram.
fn emitted() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, text) in sources() {
        // A unit test may count what it likes.
        let text = text.split("#[cfg(test)]").next().unwrap();
        for marker in ["counter!(", "gauge!("] {
            // `describe_counter!(` says a name and counts nothing.
            let text = text.replace(&format!("describe_{marker}"), "");
            names.extend(literals(&text, marker).map(str::to_owned));
        }
        for name in literals(&text.replace("describe_histogram!(", ""), "histogram!(") {
            names.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        }
    }
    assert!(names.len() > 20, "only {names:?} were found");
    names
}

/// The expressions of a rules file, and the names that its records have.
fn rules(file: &str) -> (Vec<String>, BTreeSet<String>) {
    let text = read(file);
    let (mut exprs, mut records) = (Vec::new(), BTreeSet::new());
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        if let Some(name) = line.trim().strip_prefix("- record: ") {
            records.insert(name.to_owned());
        }
        let Some(expr) = line.trim().strip_prefix("expr: ") else { continue };
        if expr != "|" {
            exprs.push(expr.to_owned());
            continue;
        }
        let mut whole = String::new();
        while let Some(more) = lines.next_if(|more| more.len() - more.trim_start().len() > indent) {
            whole += more;
            whole.push(' ');
        }
        exprs.push(whole);
    }
    (exprs, records)
}

/// Words of PromQL that are no metrics.
const LANGUAGE: &[&str] = &[
    "absent",
    "and",
    "by",
    "group_left",
    "histogram_quantile",
    "increase",
    "max",
    "min",
    "offset",
    "on",
    "or",
    "rate",
    "sum",
    "unless",
    "up",
    "vector",
];

/// The metrics that an expression asks for: its words, without matchers, groupings, durations and the language's own.
fn asked_for(expr: &str) -> Vec<String> {
    let mut bare = String::new();
    let mut depth = 0;
    for c in expr.chars() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ if depth == 0 => bare.push(c),
            _ => {}
        }
    }
    for grouping in ["by (", "on (", "by(", "on("] {
        while let Some(at) = bare.find(grouping) {
            let end = at + bare[at..].find(')').expect("a closed bracket");
            bare.replace_range(at..=end, " ");
        }
    }
    bare.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.')))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()) && !LANGUAGE.contains(word))
        .map(str::to_owned)
        .collect()
}

/// Shown to fail: with `broker_breaker_open` misspelt in a rule, and with its gauge renamed in the program.
#[test]
fn the_rules_ask_for_what_is_counted() {
    let known = emitted();
    let (record_exprs, records) = rules("infra/prometheus/records.yml");
    let (alert_exprs, _) = rules("infra/prometheus/alerts.yml");
    assert!(records.len() > 5 && alert_exprs.len() > 10, "{records:?} {alert_exprs:?}");
    let mut asked = BTreeSet::new();
    for expr in record_exprs.iter().chain(&alert_exprs) {
        asked.extend(asked_for(expr));
    }
    let unknown: Vec<_> =
        asked.iter().filter(|name| !known.contains(*name) && !records.contains(*name)).collect();
    assert!(unknown.is_empty(), "asked for and never counted: {unknown:?}");
    let unused: Vec<_> =
        records.iter().filter(|name| name.starts_with("job:") && !asked.contains(*name)).collect();
    // One is for those who look.
    assert!(unused.len() <= 1, "recorded and never asked for: {unused:?}");
}

#[test]
fn every_alert_says_what_to_do() {
    let (alerts, manual) = (read("infra/prometheus/alerts.yml"), read("docs/OPERATIONS.md"));
    let mut named = 0;
    for block in alerts.split("- alert: ").skip(1) {
        let name = block.lines().next().unwrap();
        assert!(manual.contains(&format!("| `{name}` |")), "docs/OPERATIONS.md does not explain {name}");
        assert!(block.contains("severity: page") || block.contains("severity: ticket"), "{name}: how bad?");
        assert!(
            block.contains("summary: ") && block.contains("runbook: docs/OPERATIONS.md#alerts"),
            "{name}"
        );
        named += 1;
    }
    assert!(named > 10, "{named} alerts");
    assert!(manual.contains("\n### Alerts\n"), "the runbook's anchor");
    for word in manual.split('`').filter(|word| word.starts_with("Freehold") && !word.contains(' ')) {
        assert!(
            alerts.contains(&format!("- alert: {word}\n")),
            "docs/OPERATIONS.md: there is no alert {word}"
        );
    }
}

/// Everything that is compiled in is given to the builder. Shown to fail: without `COPY plans.toml`.
#[test]
fn the_image_is_given_every_file_that_is_compiled_in() {
    let (dockerfile, ignored) = (read("Dockerfile"), read(".dockerignore"));
    let copied: BTreeSet<&str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|rest| !rest.contains("--from"))
        .flat_map(|rest| rest.split_whitespace().filter(|word| !word.starts_with("--")))
        .collect();
    let (mut looked_at, here) = (0, root().canonicalize().unwrap());
    for (path, text) in sources() {
        let text = text.split("#[cfg(test)]").next().unwrap();
        let near = path.parent().unwrap();
        let included = ["include_str!(", "include_bytes!("]
            .iter()
            .flat_map(|marker| literals(text, marker).map(|file| near.join(file)))
            .chain(literals(text, "migrate!(").map(|folder| root().join(folder)));
        for file in included.chain([path.clone()]) {
            let file = file.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let file = file.strip_prefix(&here).unwrap();
            assert!(
                file.ancestors().any(|above| copied.contains(above.to_str().unwrap())),
                "the Dockerfile does not copy {}",
                file.display()
            );
            let top = file.components().next().unwrap().as_os_str().to_str().unwrap();
            assert!(ignored.lines().any(|line| line == format!("!{top}")), ".dockerignore leaves out {top}");
            looked_at += 1;
        }
    }
    assert!(looked_at > 100 && copied.contains("templates"), "{looked_at} files");
}

#[test]
fn the_image_is_nobodys_and_is_asked_by_its_own_program() {
    let dockerfile = read("Dockerfile");
    assert!(dockerfile.contains("\nUSER 65532:65532\n"));
    assert!(dockerfile.contains("CMD [\"/usr/local/bin/freehold\", \"health\"]"));
    assert!(!dockerfile.contains("testkit"), "nothing of the tests ships");
    // The tasks of terraform/modules/app run as the same user.
    assert!(read("terraform/modules/app/main.tf").contains("\"65532:65532\""));
}

/// One service of the compose file: its lines.
fn services(compose: &str) -> Vec<(String, String)> {
    let (_, rest) = compose.split_once("\nservices:\n").expect("services");
    let (body, _) = rest.split_once("\nnetworks:\n").expect("networks after them");
    let mut found: Vec<(String, String)> = Vec::new();
    for line in body.lines() {
        let name = line.strip_prefix("  ").filter(|rest| !rest.starts_with([' ', '#']));
        match (name.and_then(|rest| rest.split_once(':')), found.last_mut()) {
            (Some((name, _)), _) => found.push((name.to_owned(), String::new())),
            (None, Some((_, text))) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    found
}

#[test]
fn compose_has_no_password_and_confines_what_it_starts() {
    let compose = read("infra/compose.yaml");
    let services = services(&compose);
    let names: Vec<&str> = services.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["migrate", "server", "worker", "control", "shard-1", "shard-2", "redis", "prometheus"]
    );
    for (name, text) in &services {
        if ["migrate", "server", "worker"].contains(&name.as_str()) {
            assert!(text.contains("<<: *freehold"), "{name} is not confined");
        }
        // Only a server may be told apart from the network's inside, and on loopback only.
        for port in text.lines().filter(|line| line.trim().starts_with("ports:")) {
            assert!(port.contains("\"127.0.0.1:"), "{name}: {port}");
        }
    }
    let (confined, _) = compose.split_once("\nx-freehold-settings:").unwrap();
    for rule in ["read_only: true", "user: \"65532:65532\"", "cap_drop: [ALL]", "no-new-privileges:true"] {
        assert!(confined.contains(rule), "no {rule}");
    }
    // The server has no admin login on any shard.
    let server = &services.iter().find(|(name, _)| name == "server").unwrap().1;
    assert!(!server.contains("shard_"), "{server}");

    let secret_word = ["PASSWORD:", "password:", "requirepass ", "://freehold:", "MASTER_KEY: \"", "trust"];
    let (open, secrets) = compose.split_once("\nsecrets:\n").unwrap();
    for line in open.lines().filter(|line| !line.trim_start().starts_with('#')) {
        assert!(!secret_word.iter().any(|word| line.contains(word)), "a secret in the open: {line}");
    }
    // What it mounts is what the script makes.
    let script = read("scripts/make-secrets.sh");
    for line in secrets.lines().filter(|line| !line.trim().is_empty()) {
        let (name, file) = line.trim().split_once(": { file: ./secrets/").expect("a file");
        assert_eq!(file, format!("{name} }}"));
        assert!(script.contains(&format!("keep {name} ")), "scripts/make-secrets.sh does not make {name}");
    }
    assert!(read(".gitignore").lines().any(|line| line == "infra/secrets/"));
}

/// Every image by a version, none by `latest` but our own, which is built beside it.
#[test]
fn compose_names_versions() {
    for line in read("infra/compose.yaml").lines().filter_map(|line| line.trim().strip_prefix("image: ")) {
        let (_, tag) = line.rsplit_once(':').expect("a tag");
        assert!(
            line.starts_with("${FREEHOLD_IMAGE:-")
                || tag.starts_with(|c: char| c.is_ascii_digit() || c == 'v'),
            "{line}"
        );
    }
}

#[test]
fn the_workflow_is_pinned_and_may_only_read() {
    let workflow = read(".github/workflows/ci.yml");
    assert!(workflow.contains("\npermissions:\n  contents: read\n"));
    for forbidden in ["pull_request_target", "secrets.", ": write", "curl "] {
        assert!(!workflow.contains(forbidden), "{forbidden}");
    }
    let makefile = read("Makefile");
    let mut actions = 0;
    for line in workflow.lines() {
        if let Some((_, used)) = line.split_once("uses: ") {
            let (action, version) = used.split_once(" # v").expect("the version, for people");
            let (_, commit) = action.split_once('@').expect("a commit");
            assert!(commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{line}");
            assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{line}");
            actions += 1;
        }
        if let Some((_, target)) = line.split_once("run: make ") {
            assert!(makefile.contains(&format!("\n{target}:")), "there is no make {target}");
        }
    }
    assert!(actions >= 4, "{actions} actions");
    assert_eq!(
        workflow.matches("actions/checkout@").count(),
        workflow.matches("persist-credentials: false").count()
    );
}

/// The names in the object type of a variable.
fn attributes(file: &str, variable: &str) -> BTreeSet<String> {
    let text = read(file);
    let object = text
        .split(&format!("variable \"{variable}\" {{"))
        .nth(1)
        .and_then(|rest| rest.split("object({").nth(1))
        .and_then(|rest| rest.split("})").next())
        .unwrap_or_else(|| panic!("{file}: no object {variable}"));
    object.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.trim().to_owned()).collect()
}

/// An object type drops what it does not name without a word: `control = { deletion_protection = false }` would do nothing.
/// Shown to fail: without `log_days` in the platform's `control`.
#[test]
fn the_platform_hands_on_every_attribute_of_its_modules() {
    // What the root says itself.
    let own = [
        "name",
        "admin_username",
        "admin_password_version",
        "admin_database",
        "deletion_protection",
        "alarm_topic_arn",
    ];
    for (module, variable, ours) in [
        ("shard", "shard", "control"),
        ("cache", "cache", "cache"),
        ("app", "app", "app"),
        ("network", "network", "network"),
    ] {
        let theirs = attributes(&format!("terraform/modules/{module}/variables.tf"), variable);
        let named = attributes("terraform/platform/variables.tf", ours);
        let dropped: Vec<_> =
            theirs.difference(&named).filter(|name| !own.contains(&name.as_str())).collect();
        assert!(theirs.len() > 2 && dropped.is_empty(), "{ours}: {dropped:?} of modules/{module}");
    }
}

/// Whoever closes an idle connection first must be the side that sends on it. Shown to fail: with 120 in balancer.tf.
#[test]
fn the_balancer_lets_an_idle_connection_go_before_the_server_does() {
    let number = |file: &str, after: &str| -> u64 {
        let text = read(file);
        let rest = text.split(after).nth(1).unwrap_or_else(|| panic!("{file}: no {after}"));
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let balancer = number("terraform/modules/app/balancer.tf", "idle_timeout = ");
    let server = number("src/http/serve.rs", "const HEAD: Duration = Duration::from_secs(");
    assert!(balancer + 10 <= server, "{balancer} s in the balancer, {server} s in the server");
}
