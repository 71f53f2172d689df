//! Which Terraform this is, and whether it is the one that is wanted. The provider's version is held by the roots' lock
//! files, which `init` may read and not write.

use serde::Deserialize;

use crate::kernel::{Error, Result, codes};

#[derive(Deserialize)]
struct Answer {
    terraform_version: String,
}

const HOW: &str = "https://developer.hashicorp.com/terraform/install has it; or set provisioner = \"none\", \
                   and nothing is provisioned in a cloud";

/// Reads the answer of `terraform version -json`.
///
/// # Errors
/// `infra_unavailable` when it is none, or another version than `wanted` (`1.11` is any 1.11.x).
pub fn check(answer: &[u8], wanted: &str) -> Result<String> {
    let Answer { terraform_version: found } = serde_json::from_slice(answer).map_err(|error| {
        Error::new(&codes::INFRA_UNAVAILABLE)
            .detail("what is called terraform does not say its version")
            .hint(HOW)
            .source(error)
    })?;
    let matches = found == wanted || found.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'));
    if matches {
        return Ok(found);
    }
    Err(Error::new(&codes::INFRA_UNAVAILABLE)
        .detail(format!("this is Terraform {found}, and {wanted} is wanted: a state that a newer one wrote is lost to the others"))
        .hint(HOW))
}

/// There is no such program.
pub fn absent(program: &std::path::Path, error: std::io::Error) -> Error {
    Error::new(&codes::INFRA_UNAVAILABLE)
        .detail(format!("{} cannot be started: is Terraform installed?", program.display()))
        .hint(HOW)
        .source(error)
}

/// What the error of `init` means: most often that the provider cannot be had.
pub fn init_failed(output: &str) -> Error {
    let unreachable = [
        "could not connect to registry",
        "Failed to query available provider packages",
        "Failed to install provider",
    ]
    .iter()
    .any(|text| output.contains(text));
    let error = Error::new(&codes::INFRA_UNAVAILABLE).source(output.trim().to_owned());
    if unreachable {
        error
            .detail("Terraform cannot get its AWS provider")
            .hint("reach registry.terraform.io, or name a folder that mirrors it: mirror = \"/path\", or TF_PLUGIN_MIRROR")
    } else if output.contains("lock file") {
        error
            .detail("the provider is not the one of the roots' lock file")
            .hint("get the version that .terraform.lock.hcl names")
    } else {
        error.detail(format!("terraform init failed: {}", first_error(output)))
    }
}

/// What is said of a provider that does not run: it did not start within its minute, or was ended under its work. That is the
/// machine's trouble, which passes, and none of the cloud.
const NO_PROVIDER: &[&str] = &[
    "timeout while waiting for plugin to start",
    "plugin exited before we could connect",
    "Unrecognized remote plugin message",
    "Plugin did not respond",
];

/// The error for a command whose provider did not run; none when something else was wrong.
pub fn no_provider(said: &str) -> Option<Error> {
    NO_PROVIDER.iter().any(|text| said.contains(text)).then(|| {
        Error::new(&codes::INFRA_UNAVAILABLE)
            .detail("Terraform's provider did not start or was ended: this machine has too much to do")
            .hint(
                "it is tried again; at_once in the infrastructure settings says how many run side by side. If it never starts, \
                 TMPDIR is perhaps not to be written to",
            )
            .source(said.trim().to_owned())
    })
}

/// Whether a command had to give up because somebody has the state locked.
pub fn is_locked(said: &str) -> bool {
    said.contains("Error acquiring the state lock")
}

/// The first error's first line, without its frame. Terraform never repeats a value of the environment in it.
pub fn first_error(output: &str) -> String {
    let lines = output.lines().map(|line| line.trim_start_matches(['│', '╷', '╵', ' ']).trim());
    let mut after = lines.skip_while(|line| !line.starts_with("Error"));
    after.next().unwrap_or("it did not say why").trim_start_matches("Error: ").chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(version: &str) -> Vec<u8> {
        format!(r#"{{"terraform_version":"{version}","platform":"linux_amd64","provider_selections":{{}}}}"#)
            .into_bytes()
    }

    /// Shown to fail: with `found.starts_with(wanted)` alone, which takes 1.110.0 for 1.11.
    #[test]
    fn another_version_is_refused() {
        assert_eq!(check(&answer("1.11.4"), "1.11").expect("it is"), "1.11.4");
        assert_eq!(check(&answer("1.11.4"), "1.11.4").expect("it is"), "1.11.4");
        for other in ["1.10.5", "1.12.0", "1.110.0", "2.0.0"] {
            let error = check(&answer(other), "1.11").expect_err(other);
            assert!(error.is(&codes::INFRA_UNAVAILABLE));
            assert!(error.public_hint().expect("a hint").contains("terraform/install"));
        }
        check(b"not json", "1.11").expect_err("no version");
    }

    /// A busy machine is tried again for as long as it is busy; what the cloud refuses waits for a person after a while.
    #[test]
    fn a_provider_that_does_not_run_is_the_machines_trouble() {
        for said in [
            "Failed to load plugin schemas: failed to instantiate provider: timeout while waiting for plugin to start",
            "Error: Plugin did not respond\nThe plugin encountered an error",
        ] {
            assert!(no_provider(said).expect(said).is(&codes::INFRA_UNAVAILABLE));
        }
        assert!(no_provider("creating IAM Role: LimitExceeded").is_none());
    }

    /// As `import` says it. Guards `is_locked` in `question`: as a refusal it would count towards those that wear a run out.
    #[test]
    fn a_lock_is_no_refusal() {
        assert!(is_locked(
            "\nError: Error acquiring the state lock\n\nError message: Already locked for workspace creation"
        ));
        assert!(!is_locked("Error: Cannot import non-existent remote object"));
    }

    #[test]
    fn a_failed_init_says_what_to_do() {
        let output = "╷\n│ Error: Failed to query available provider packages\n│ \n│ Could not retrieve\n╵";
        let error = init_failed(output);
        assert!(error.public_hint().expect("a hint").contains("mirror"));
        let output = "╷\n│ Error: Backend initialization failed\n│ dial tcp\n╵";
        assert!(
            init_failed(output).public_detail().expect("a detail").contains("Backend initialization failed")
        );
    }
}
