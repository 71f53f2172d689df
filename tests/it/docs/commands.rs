//! The commands that documents show are commands of this build.

use std::ffi::OsString;

use clap::CommandFactory;
use freehold::cli::{self, Cli};

use super::{code_in, documents, root};

/// Where administrative commands are run as tasks in the cloud, `task migrate control` is one of ours as well.
const DEPLOY: &str = "DEPLOY.md";

/// Words as a shell would see them, up to a pipe, a redirection, a background or a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    for c in line.chars().chain([' ']) {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => (quote, begun) = (Some(c), true),
            (None, c) if c.is_whitespace() => {
                if matches!(word.as_str(), "|" | "||" | "&&" | ">" | "&" | "#") {
                    return words;
                }
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (None, c) => word.push(c),
        }
    }
    words
}

/// `$(…)` and `$NAME` stand for values, which no parser may take for words of their own.
fn without_substitutions(line: &str) -> String {
    let mut line = line.to_owned();
    while let Some(at) = line.find("$(") {
        let Some(end) = line[at..].find(')') else { break };
        line.replace_range(at..=at + end, "value");
    }
    line
}

/// The fenced blocks of a document, with lines that end in a backslash joined.
fn shown(document: &str) -> Vec<String> {
    let (mut fenced, mut lines, mut open) = (false, Vec::new(), String::new());
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            match line.strip_suffix('\\') {
                Some(part) => open += part,
                None => lines.push(std::mem::take(&mut open) + line),
            }
        }
    }
    lines
}

/// A command of ours as it is typed: after settings before it, a prompt, and the ways to run it elsewhere.
fn ours(line: &str, deploy: bool) -> Option<&str> {
    let mut line = line.trim().trim_start_matches("$ ");
    while let Some((first, rest)) = line.split_once(' ') {
        // NAME=value in front of a command.
        if !first
            .split_once('=')
            .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        {
            break;
        }
        line = rest.trim_start();
    }
    for start in ["freehold ", "target/debug/freehold ", "target/dist/freehold "] {
        if let Some(rest) = line.strip_prefix(start) {
            return Some(rest);
        }
    }
    if deploy {
        let compose = "docker compose -f infra/compose.yaml run --rm worker ";
        return line.strip_prefix("task ").or_else(|| line.strip_prefix(compose));
    }
    None
}

/// The first word that should be a command and is none.
fn unknown(words: &[String]) -> Option<&str> {
    let mut command = Cli::command();
    for word in words {
        let name = !word.starts_with('-') && word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        if !command.has_subcommands() || !name {
            return None;
        }
        match command.find_subcommand(word) {
            Some(found) => command = found.clone(),
            None => return Some(word),
        }
    }
    None
}

/// Shown to fail: with `freehold shard ad` in docs/OPERATIONS.md.
#[test]
fn every_command_that_is_shown_can_be_typed() {
    let (mut wrong, mut parsed) = (Vec::new(), 0);
    for (path, text) in documents() {
        let deploy = path.ends_with(DEPLOY);
        for line in shown(&text) {
            let line = without_substitutions(&line);
            let Some(command) = ours(&line, deploy) else { continue };
            let typed = words(command);
            if typed.iter().any(|word| word.contains('…')) {
                // An id or a key that was left out: nothing but the command's name can be held against it.
                wrong.extend(unknown(&typed).map(|word| format!("{}: {line}: {word}", path.display())));
            } else if let Err(error) =
                cli::parse(["freehold".to_owned()].into_iter().chain(typed).map(OsString::from))
                && error.exit_code() != 0
            {
                wrong.push(format!("{}: {line}\n{error}", path.display()));
            }
            parsed += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(parsed > 30, "only {parsed} commands were found");
}

/// In running text a command is named without its arguments: then its words have to be there.
#[test]
fn every_command_that_is_named_exists() {
    let mut named = 0;
    for (path, text) in documents() {
        for code in code_in(&text) {
            let Some(rest) = code.strip_prefix("freehold ") else { continue };
            let typed: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
            if let Some(word) = unknown(&typed) {
                panic!("{}: there is no command `{code}`: {word}", path.display());
            }
            named += 1;
        }
    }
    assert!(named > 40, "only {named} commands were found");
}

/// Files that `docs/DEPLOY.md` runs or reads.
#[test]
fn every_file_that_deploying_needs_is_there() {
    let text = super::read("docs/DEPLOY.md");
    let mut found = 0;
    for line in shown(&text) {
        for word in line.split(|c: char| c.is_whitespace() || matches!(c, '=' | '"' | '\'' | '(' | ')')) {
            let ours = ["scripts/", "infra/", "terraform/"].iter().any(|folder| word.starts_with(folder));
            // What the first start makes is not there yet.
            if ours && !word.starts_with("infra/secrets") {
                assert!(root().join(word).exists(), "docs/DEPLOY.md: there is no {word}");
                found += 1;
            }
        }
    }
    assert!(found > 5, "only {found} files were found");
}
