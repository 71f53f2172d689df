//! What can be set, and what goes by itself, is in a document; what is given as an example can be read.

use std::collections::BTreeSet;

use freehold::billing::settings::Settings as StripeSettings;
use freehold::control_plane::infra::settings::InfraSettings;
use freehold::identity::settings::Settings as IdentitySettings;

use super::{OPERATIONS, between, code_in, read, root};

/// The fields of a struct or a variant, as a file names them.
fn fields(source: &str, opening: &str) -> Vec<String> {
    let (_, rest) = source.split_once(opening).unwrap_or_else(|| panic!("there is no {opening}"));
    let (body, _) = rest.split_once('}').expect("its end");
    let (mut found, mut renamed) = (Vec::new(), None);
    for part in body.lines().flat_map(|line| line.split(", ")) {
        let part = part.trim().trim_start_matches("pub ");
        if let Some(name) = between(part, "rename = \"", '"').next() {
            renamed = Some(name.to_owned());
        }
        let Some((name, _)) = part.split_once(": ") else { continue };
        if !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            found.push(renamed.take().unwrap_or_else(|| name.to_owned()));
        }
    }
    assert!(!found.is_empty(), "{opening} has no field");
    found
}

/// Shown to fail: without the line of `at_once` in docs/OPERATIONS.md.
#[test]
fn every_setting_of_the_files_is_explained() {
    let (identity, oidc) = ("src/identity/settings.rs", "src/identity/oidc/settings.rs");
    let (stripe, infra) = ("src/billing/settings.rs", "src/control_plane/infra/settings.rs");
    for (source, opening, document) in [
        (identity, "pub struct Settings {", "docs/IDENTITY.md"),
        (identity, "pub struct PasswordSettings {", "docs/IDENTITY.md"),
        (identity, "pub struct MailSettings {", "docs/IDENTITY.md"),
        (identity, "    Smtp {", "docs/IDENTITY.md"),
        (oidc, "pub struct ProviderSettings {", "docs/IDENTITY.md"),
        (stripe, "struct File {", "docs/STRIPE.md"),
        (stripe, "struct FileWebhooks {", "docs/STRIPE.md"),
        (stripe, "pub struct AccessDays {", "docs/STRIPE.md"),
        (stripe, "pub struct Alerts {", "docs/STRIPE.md"),
        (infra, "pub struct InfraSettings {", OPERATIONS),
        (infra, "pub struct RootSettings {", OPERATIONS),
        (infra, "pub struct DedicatedSettings {", OPERATIONS),
        (infra, "pub struct StandInSettings {", OPERATIONS),
    ] {
        let text = read(document);
        let named: BTreeSet<&str> = code_in(&text)
            .into_iter()
            .flat_map(|code| code.split(|c: char| !(c.is_ascii_lowercase() || c == '_')))
            .collect();
        for field in fields(&read(source), opening) {
            assert!(named.contains(field.as_str()), "{document} does not explain {field} of {source}");
        }
    }
}

/// The same settings with files in place of every secret that they refer to.
fn with_secrets(text: &str, folder: &std::path::Path) -> String {
    let mut text = text.to_owned();
    let references: Vec<String> = ["env:", "file:"]
        .into_iter()
        .flat_map(|scheme| {
            let names: Vec<String> = between(&text, &format!("\"{scheme}"), '"').map(str::to_owned).collect();
            names.into_iter().map(move |name| format!("{scheme}{name}"))
        })
        .collect();
    for (number, reference) in references.iter().enumerate() {
        let secret =
            if reference.to_ascii_lowercase().ends_with("key") { "sk_test_abc" } else { "whsec_abc" };
        let file = folder.join(number.to_string());
        std::fs::write(&file, secret).unwrap();
        text = text.replace(&format!("\"{reference}\""), &format!("\"file:{}\"", file.display()));
    }
    text
}

/// Settings of all three files, as documents show them and as examples stand beside the compose file. Shown to fail: with
/// `grace = 30` in infra/stripe.example.toml.
#[test]
fn every_example_of_settings_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = |document: &str| -> Vec<String> {
        let text = read(document);
        text.split("```toml\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next())
            .map(str::to_owned)
            .collect()
    };
    IdentitySettings::parse(&read("infra/identity.example.toml")).unwrap();
    let (stripe, cloud) = (blocks("docs/STRIPE.md"), blocks(OPERATIONS));
    assert!(!stripe.is_empty() && !cloud.is_empty());
    for text in stripe.into_iter().chain([read("infra/stripe.example.toml")]) {
        StripeSettings::parse(&with_secrets(&text, folder.path()))
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
    for text in cloud.into_iter().chain([read("infra/cloud.example.toml")]) {
        InfraSettings::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

/// What the two files beside the compose file mount is what the examples refer to.
#[test]
fn the_files_beside_the_compose_file_fit_the_examples() {
    for (compose, example) in [
        ("infra/compose.identity.yaml", "infra/identity.example.toml"),
        ("infra/compose.stripe.yaml", "infra/stripe.example.toml"),
    ] {
        let (compose, example) = (read(compose), read(example));
        let (services, secrets) = compose.split_once("\nsecrets:\n").expect("secrets");
        let made: BTreeSet<&str> =
            secrets.lines().filter_map(|line| line.trim().split_once(": {")).map(|one| one.0).collect();
        for line in services.lines().filter_map(|line| line.trim().strip_prefix("secrets: [")) {
            let mounted: BTreeSet<&str> = line.trim_end_matches(']').split(", ").collect();
            assert_eq!(mounted, made);
        }
        for name in between(&example, "\"file:/run/secrets/", '"') {
            assert!(made.contains(name), "{name} is not mounted");
        }
        for file in between(secrets, "file: ./secrets/", ' ') {
            assert!(made.contains(file), "{file} is another name than its secret's");
        }
    }
}

/// Shown to fail: without the line of `session_sweep`.
#[test]
fn every_round_of_the_worker_is_explained() {
    let manual = read(OPERATIONS);
    let mut rounds = 0;
    for file in ["src/control_plane/worker.rs", "src/identity/chores.rs", "src/billing/regular.rs"] {
        let text = read(file);
        for (name, rest) in text.split("name: \"").skip(1).filter_map(|rest| rest.split_once('"')) {
            // Other things have names as well.
            if rest.trim_start_matches(',').trim_start().starts_with("seconds: ") {
                assert!(
                    manual.contains(&format!("`{name}`")),
                    "{OPERATIONS} does not explain the round {name}"
                );
                rounds += 1;
            }
        }
    }
    assert!(rounds > 25, "only {rounds} rounds were found");
}

/// Shown to fail: without the line of `dispute`.
#[test]
fn every_incident_is_explained() {
    let manual = ["docs/BILLING.md", "docs/STRIPE.md", "docs/METERING.md"].map(read).join("\n");
    let mut incidents = 0;
    for file in [
        "incidents.rs",
        "sender/watch.rs",
        "ledger/relay.rs",
        "finance/standing.rs",
        "reconcile/close.rs",
        "ledger/sealer.rs",
    ] {
        let text = read(format!("src/billing/{file}"));
        let texts = text.split("pub const ").filter_map(|rest| rest.split_once(": &str = \""));
        for (_, kind) in texts.filter(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_')) {
            let kind = kind.split('"').next().unwrap_or_default();
            assert!(manual.contains(&format!("`{kind}`")), "no document explains the incident {kind}");
            incidents += 1;
        }
    }
    assert!(incidents > 25, "only {incidents} incidents were found");
    let classes = read("src/billing/reconcile/class.rs");
    let (_, named) = classes.split_once("impl Class {").expect("the classes of differences");
    for (_, class) in named.split("Self::").skip(1).filter_map(|rest| rest.split_once(" => \"")) {
        let class = class.split('"').next().unwrap_or_default();
        assert!(manual.contains(&format!("| `{class}` |")), "docs/BILLING.md does not explain {class}");
    }
}

/// One version of Rust: what the package asks for, what the workflow tests and what the image is built with.
#[test]
fn one_version_of_rust() {
    let package = read("Cargo.toml");
    let wanted = between(&package, "rust-version = \"", '"').next().expect("a version");
    let workflow = read(".github/workflows/ci.yml");
    let tested = between(&workflow, "RUST_VERSION: \"", '"').next().expect("a version");
    assert!(tested.starts_with(&format!("{wanted}.")), "{tested} is tested, {wanted} is asked for");
    let image = read("Dockerfile");
    assert!(
        image.contains(&format!("/library/rust:{wanted}-")),
        "the image is built with another Rust than {wanted}"
    );
    assert!(root().join("Cargo.lock").exists(), "and with the versions that were tested");
}
