//! Who may import whom. Reads the sources: a forbidden edge fails here, with the file and the line that made it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The top modules of the crate, lowest first, and what each may import besides itself. A module that is not listed
/// fails the test: whoever adds one says here where it stands.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("kernel", &[]),
    ("telemetry", &["kernel"]),
    ("local", &["kernel"]),
    ("db", &["kernel"]),
    ("jobs", &["kernel", "db"]),
    ("control_plane", &["kernel", "db", "jobs"]),
    // Keys are made and revoked in the control database, with its audit log and its notifications. Never the other way.
    ("identity", &["kernel", "db", "jobs", "control_plane"]),
    // Money is about tenants and plans; its letters go to the people who own a tenant.
    ("billing", &["kernel", "db", "jobs", "control_plane", "identity"]),
    // For `Addresses` and the providers, which settings are turned into.
    ("config", &["kernel", "control_plane", "identity", "billing"]),
    ("data_plane", &["kernel", "db", "jobs", "control_plane", "identity", "billing"]),
    // Of `http`, the vocabulary only: see PARTS.
    ("product", &["kernel", "data_plane", "http"]),
    ("http", &["kernel", "telemetry", "jobs", "control_plane", "identity", "billing", "data_plane"]),
    // Adapters implement what their consumers declare, and are named by `app` alone.
    ("adapters", &["kernel", "db", "jobs", "control_plane", "identity", "billing", "data_plane"]),
    (
        "app",
        &[
            "kernel",
            "telemetry",
            "db",
            "jobs",
            "config",
            "control_plane",
            "identity",
            "billing",
            "data_plane",
            "product",
            "http",
            "adapters",
        ],
    ),
    (
        "cli",
        &[
            "kernel",
            "telemetry",
            "local",
            "db",
            "jobs",
            "config",
            "control_plane",
            "identity",
            "billing",
            "data_plane",
            "product",
            "http",
            "app",
            // In builds that have it, for `dev`: see PARTS.
            "testkit",
        ],
    ),
    (
        "testkit",
        &[
            "kernel",
            "telemetry",
            "local",
            "db",
            "jobs",
            "config",
            "control_plane",
            "identity",
            "billing",
            "data_plane",
            "product",
            "http",
            "adapters",
            "app",
            "cli",
        ],
    ),
    ("main", &["cli"]),
];

/// Edges of which only a part is open: the importer, the imported module, the only parts of it.
const PARTS: &[(&str, &str, &[&str])] =
    &[("product", "http", &["vocabulary", "pages"]), ("cli", "testkit", &["stripe"])];

/// Where a statement may be written. Elsewhere a query is a function of one of these modules.
const SPEAKS_SQL: &[&str] =
    &["db", "jobs", "identity", "billing", "control_plane", "data_plane", "product", "local", "testkit"];

/// The files that may make a statement out of text: each puts names into it with `db::ident`, or holds constants.
const ASSERTS_SQL_SAFE: &[&str] = &[
    "db/admin.rs",
    "db/hardening.rs",
    "db/states.rs",
    "local/stack.rs",
    "testkit/cluster.rs",
    "testkit/world.rs",
];

const LONGEST_FILE: usize = 600;

/// One `crate::a::b` in a file.
#[derive(Debug, PartialEq, Eq)]
struct Edge {
    line: usize,
    to: String,
    /// What is named inside the module, when one thing is.
    part: Option<String>,
}

/// The text without comments. Naive about `//` inside strings: only ` // ` and a line's beginning count.
fn code_of(line: &str) -> &str {
    if line.trim_start().starts_with("//") {
        return "";
    }
    line.split_once(" // ").map_or(line, |(code, _)| code)
}

/// The identifier that a text begins with.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

/// What follows `::`, if one name does.
fn part_of(rest: &str) -> Option<String> {
    rest.strip_prefix("::").map(word).filter(|part| !part.is_empty()).map(str::to_owned)
}

/// The names directly inside `{…}`, each with what follows it.
fn braced(text: &str) -> Vec<&str> {
    let (mut depth, mut fresh, mut names) = (0usize, true, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            _ if depth == 1 && fresh && !c.is_whitespace() => {
                names.push(&text[at..]);
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

/// Every path of a source text that starts at the crate's root: by `crate::`, or by enough `super::`. `depth` is how
/// deep the file's module lies: 1 for `http/mod.rs`, 2 for `http/router.rs`.
fn edges(source: &str, depth: usize) -> Vec<Edge> {
    let code: String = source.lines().flat_map(|line| [code_of(line), "\n"]).collect();
    let up = "super::".repeat(depth);
    let mut found = Vec::new();
    for root in ["crate::", up.as_str()] {
        for (at, _) in code.match_indices(root) {
            let line = code[..at].matches('\n').count() + 1;
            if code[..at].ends_with("super::")
                || code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
            {
                continue;
            }
            let rest = &code[at + root.len()..];
            let starts = if rest.starts_with('{') { braced(rest) } else { vec![rest] };
            for start in starts {
                let to = word(start);
                let after = &start[to.len()..];
                if let Some(inside) = after.strip_prefix("::").filter(|inside| inside.starts_with('{')) {
                    found.extend(braced(inside).into_iter().map(|name| Edge {
                        line,
                        to: to.to_owned(),
                        part: Some(word(name).to_owned()),
                    }));
                } else {
                    found.push(Edge { line, to: to.to_owned(), part: part_of(after) });
                }
            }
        }
    }
    found
}

/// What is wrong with one file's imports. `file` is its path below `src`.
fn violations(file: &str, source: &str) -> Vec<String> {
    let names: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
    let top = names[0];
    let depth = names.len() - usize::from(names.len() > 1 && names.last() == Some(&"mod"));
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(module, _)| *module == top) else {
        return vec![format!("{file}: the module {top} has no place in MAY_IMPORT")];
    };
    let known: BTreeSet<&str> = MAY_IMPORT.iter().map(|(module, _)| *module).collect();
    let mut wrong = Vec::new();
    for edge in edges(source, depth) {
        let to = edge.to.as_str();
        if to == top || !known.contains(to) {
            continue;
        }
        if !allowed.contains(&to) {
            wrong.push(format!("{file}:{}: {top} may not import {to}", edge.line));
        }
        for (_, _, parts) in PARTS.iter().filter(|(from, into, _)| *from == top && *into == to) {
            if !edge.part.as_deref().is_some_and(|part| parts.contains(&part)) {
                wrong.push(format!("{file}:{}: of {to}, {top} may import {parts:?} only", edge.line));
            }
        }
    }
    wrong
}

/// Whether a text writes a statement of its own.
fn speaks_sql(source: &str) -> bool {
    let code: String = source.lines().map(code_of).collect();
    ["sqlx::query", "sqlx::raw_sql", "QueryBuilder::new("].iter().any(|call| code.contains(call))
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file: its path below `src`, and its text.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(src()).unwrap().to_string_lossy().into_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&src(), &mut found);
    found.retain(|(file, _)| file != "lib.rs");
    found.sort();
    assert!(found.len() > 50, "only {} source files were found", found.len());
    found
}

#[test]
fn no_module_imports_what_lies_above_it() {
    let wrong: Vec<String> = sources().iter().flat_map(|(file, text)| violations(file, text)).collect();
    assert!(wrong.is_empty(), "forbidden imports (tests/it/layers.rs says why):\n{}", wrong.join("\n"));
}

#[test]
fn statements_are_written_where_the_data_is_owned() {
    let wrong: Vec<String> = sources()
        .into_iter()
        .filter(|(file, text)| {
            let top = file.split('/').next().unwrap_or_default().trim_end_matches(".rs");
            !SPEAKS_SQL.contains(&top) && speaks_sql(text)
        })
        .map(|(file, _)| file)
        .collect();
    assert_eq!(wrong, Vec::<String>::new(), "SQL outside the modules that own tables");
}

#[test]
fn few_files_may_make_sql_out_of_text() {
    let found: BTreeSet<String> = sources()
        .into_iter()
        .filter(|(_, text)| text.lines().any(|line| code_of(line).contains("AssertSqlSafe")))
        .map(|(file, _)| file)
        .collect();
    let listed: BTreeSet<String> = ASSERTS_SQL_SAFE.iter().map(|file| (*file).to_owned()).collect();
    let new: Vec<_> = found.difference(&listed).collect();
    assert!(
        new.is_empty(),
        "AssertSqlSafe in {new:?}: bind the value, or say in ASSERTS_SQL_SAFE why it is safe"
    );
}

#[test]
fn no_file_is_too_long_to_read() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(file, text)| (file, text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST_FILE)
        .collect();
    assert!(long.is_empty(), "longer than {LONGEST_FILE} lines: {long:?}");
}

/// The checker itself: a made-up forbidden edge is found however it is written, and an allowed one is not.
#[test]
fn a_made_up_edge_is_found() {
    let forbidden = [
        ("kernel/page.rs", "use crate::db::error;"),
        ("db/admin.rs", "fn f() { crate::control_plane::doctor::examine(); }"),
        ("control_plane/tenants.rs", "use crate::{kernel::Result, identity::keys};"),
        ("control_plane/mod.rs", "use super::identity::keys;"),
        ("data_plane/broker/mod.rs", "use super::super::product::Current;"),
        ("http/router.rs", "use crate::product::Current;"),
        ("http/operator/feed.rs", "use crate::{\n    kernel::Result,\n    db::admin,\n};"),
        ("product/opsflow/tasks/store.rs", "use crate::control_plane::tenants;"),
        ("product/opsflow/tasks/store.rs", "use crate::db::on_constraint;"),
        ("product/opsflow/tasks/mod.rs", "use crate::http::router;"),
        ("product/opsflow/tasks/mod.rs", "use crate::http::{vocabulary::Json, problem::Problem};"),
        ("app.rs", "use crate::cli::Globals;"),
        ("novel/mod.rs", ""),
    ];
    for (file, source) in forbidden {
        assert!(!violations(file, source).is_empty(), "{file}: {source}");
    }
    let allowed = [
        ("db/admin.rs", "use crate::kernel::Error; // unlike crate::http\n/// See [`crate::app`]."),
        ("data_plane/broker/mod.rs", "use super::super::control_plane::changes;"),
        ("data_plane/broker/guard.rs", "use super::super::cli_like;"),
        ("product/opsflow/tasks/mod.rs", "use crate::http::vocabulary::{Json, Path};"),
        ("product/opsflow/tasks/mod.rs", "use crate::http::{vocabulary::Json};"),
        ("product/mod.rs", "use crate::define_id; use othercrate::db;"),
        ("cli/tenant.rs", "use crate::{app, control_plane::{tenants, access}};"),
    ];
    for (file, source) in allowed {
        assert_eq!(violations(file, source), Vec::<String>::new(), "{file}: {source}");
    }
    assert!(speaks_sql("sqlx::query_as(\"SELECT 1\")"));
    assert!(!speaks_sql("// not sqlx::query\nuse sqlx::PgPool;"));
}
