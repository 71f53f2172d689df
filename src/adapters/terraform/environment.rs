//! The whole environment of a Terraform process. Nothing of ours is handed on but what is named here: the master key and
//! the control database's address are none of its business, nor its providers'.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::{Root, Task};
use crate::control_plane::infra::settings::InfraSettings;
use crate::db::states;

/// Names that are handed on as they are, beside `AWS_*`.
const HANDED_ON: &[&str] = &[
    "PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "LANG",
    "TMPDIR",
    // The state database is looked at by Terraform as it is by us.
    "PGSSLROOTCERT",
];

/// Where providers have their sockets, unless somebody says where: in a container nothing but the folder for runs may be
/// written to. None where the name would be too long for a socket, which has 108 bytes for all of it.
pub fn sockets(settings: &InfraSettings) -> Option<PathBuf> {
    let folder = std::path::absolute(&settings.work).ok()?.join("tmp");
    (folder.as_os_str().len() <= 80).then_some(folder)
}

/// For every command: `outside` is our own environment.
pub fn common(
    settings: &InfraSettings,
    root: Root,
    state_url: &SecretString,
    data: &Path,
    cli_config: &Path,
    outside: impl IntoIterator<Item = (String, String)>,
) -> Vec<(String, String)> {
    // Beside a stand-in, whatever leads to a real cloud stays here.
    let real = settings.stand_in.is_none();
    let handed = outside
        .into_iter()
        .filter(|(name, _)| (real && name.starts_with("AWS_")) || HANDED_ON.contains(&name.as_str()));
    let mut env: Vec<(String, String)> = handed.collect();
    if let Some(folder) = sockets(settings).filter(|_| env.iter().all(|(name, _)| name != "TMPDIR")) {
        env.push(("TMPDIR".to_owned(), folder.to_string_lossy().into_owned()));
    }
    // A home that has no settings of a person in it.
    let home = data.parent().unwrap_or(data).to_string_lossy().into_owned();
    for (name, value) in [
        ("HOME", home),
        ("CHECKPOINT_DISABLE", "1".to_owned()),
        ("TF_IN_AUTOMATION", "1".to_owned()),
        ("TF_INPUT", "0".to_owned()),
        ("TF_DATA_DIR", data.to_string_lossy().into_owned()),
        ("TF_CLI_CONFIG_FILE", cli_config.to_string_lossy().into_owned()),
        ("PG_CONN_STR", for_backend(state_url.expose_secret())),
        ("PG_SCHEMA_NAME", states::schema_of(root.as_str())),
        ("PG_SKIP_SCHEMA_CREATION", "true".to_owned()),
        ("PG_SKIP_TABLE_CREATION", "true".to_owned()),
        ("PG_SKIP_INDEX_CREATION", "true".to_owned()),
    ] {
        env.push((name.to_owned(), value));
    }
    env.extend(settings.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    env
}

/// For commands on one state. `init` goes without: it is for all of them.
pub fn of_task(task: &Task) -> Vec<(String, String)> {
    let secrets = task
        .secrets
        .iter()
        .map(|(name, secret)| (format!("TF_VAR_{name}"), secret.expose_secret().to_owned()));
    std::iter::once(("TF_WORKSPACE".to_owned(), task.workspace.clone())).chain(secrets).collect()
}

/// Where the cloud is, when it is not where it always is.
pub fn endpoint(env: &[(String, String)]) -> Option<&str> {
    // The last one counts, as it does for the process.
    env.iter().rev().find(|(name, _)| name == "AWS_ENDPOINT_URL").map(|(_, value)| value.as_str())
}

/// The backend's driver asks for TLS unless told otherwise, and our own takes what the server offers: on this machine
/// itself there is nothing to protect.
fn for_backend(url: &str) -> String {
    let local = ["@127.0.0.1:", "@127.0.0.1/", "@localhost:", "@localhost/", "@[::1]"]
        .iter()
        .any(|host| url.contains(host));
    if !local || url.contains("sslmode=") {
        return url.to_owned();
    }
    let glue = if url.contains('?') { '&' } else { '?' };
    format!("{url}{glue}sslmode=disable")
}

/// The CLI's configuration: where the provider comes from. Always written, so that the one of whoever runs us is not read.
pub fn cli_config(mirror: Option<&Path>, cache: &Path) -> String {
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    match mirror {
        Some(mirror) => {
            format!(
                "provider_installation {{\n  filesystem_mirror {{\n    path = {}\n  }}\n}}\n",
                quoted(mirror)
            )
        }
        None => format!("plugin_cache_dir = {}\n", quoted(cache)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::infra::settings::StandInSettings;
    use crate::kernel::SecretRef;

    /// Shown to fail: with the filter on what is handed on taken out.
    #[test]
    fn our_own_secrets_stay_here() {
        let outside = [
            ("FREEHOLD_MASTER_KEY", "m"),
            ("FREEHOLD_CONTROL_URL", "c"),
            ("PGPASSWORD", "p"),
            ("TF_LOG", "trace"),
            ("TF_VAR_admin_password", "x"),
            ("AWS_REGION", "eu-central-1"),
            ("PATH", "/bin"),
        ];
        let outside = outside.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let url = SecretString::from("postgres://u:p@db/states");
        let env = common(
            &InfraSettings::default(),
            Root::Tenant,
            &url,
            Path::new("/w/data"),
            Path::new("/w/cli.tfrc"),
            outside,
        );
        let names: Vec<&str> = env.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(&names[..2], ["AWS_REGION", "PATH"]);
        for name in
            ["FREEHOLD_MASTER_KEY", "FREEHOLD_CONTROL_URL", "PGPASSWORD", "TF_LOG", "TF_VAR_admin_password"]
        {
            assert!(!names.contains(&name), "{name}");
        }
        assert!(names.contains(&"PG_CONN_STR"));
        assert!(env.contains(&("PG_SCHEMA_NAME".to_owned(), "tf_tenant".to_owned())));
    }

    /// A container's own `/tmp` is not to be written to, and a provider without a place for its socket does not start.
    #[test]
    fn a_provider_has_a_place_for_its_socket() {
        let settings = |work: &str| InfraSettings { work: work.into(), ..InfraSettings::default() };
        let url = SecretString::from("postgres://u:p@db/states");
        let told = |settings: &InfraSettings, outside: &[(&str, &str)]| {
            let outside: Vec<_> =
                outside.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let env = common(settings, Root::Shard, &url, Path::new("/w/data"), Path::new("/w/c"), outside);
            let of = |wanted: &str| {
                env.iter().rev().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
            };
            (of("TMPDIR"), of("PGSSLROOTCERT"))
        };
        let image = settings("/var/lib/freehold/terraform");
        let tmp = |path: &str| Some(path.to_owned());
        assert_eq!(told(&image, &[]).0, tmp("/var/lib/freehold/terraform/tmp"));
        assert_eq!(told(&image, &[("TMPDIR", "/run/x")]).0, tmp("/run/x"));
        assert_eq!(told(&settings(&format!("/{}", "d".repeat(90))), &[]).0, None);
        // What the state database's certificate is checked against.
        assert_eq!(told(&image, &[("PGSSLROOTCERT", "/etc/rds.pem")]).1, tmp("/etc/rds.pem"));
    }

    /// Shown to fail: without the look at `stand_in` in `common`.
    #[test]
    fn beside_a_stand_in_nothing_leads_to_a_real_cloud() {
        let settings = InfraSettings {
            stand_in: Some(StandInSettings { server: SecretRef::Env("X".to_owned()) }),
            ..InfraSettings::default()
        };
        let outside = [("AWS_PROFILE", "prod"), ("AWS_ENDPOINT_URL_RDS", "https://x"), ("PATH", "/bin")];
        let outside = outside.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let url = SecretString::from("postgres://u:p@db/states");
        let env = common(&settings, Root::Shard, &url, Path::new("/w/data"), Path::new("/w/c"), outside);
        assert!(env.iter().all(|(name, _)| !name.starts_with("AWS_")), "{env:?}");
    }

    #[test]
    fn the_backend_asks_for_tls_elsewhere_only() {
        assert_eq!(for_backend("postgres://u@127.0.0.1:5/d"), "postgres://u@127.0.0.1:5/d?sslmode=disable");
        assert_eq!(
            for_backend("postgres://u@localhost/d?a=b"),
            "postgres://u@localhost/d?a=b&sslmode=disable"
        );
        assert_eq!(for_backend("postgres://u@db.internal/d"), "postgres://u@db.internal/d");
        let said = "postgres://u@127.0.0.1/d?sslmode=verify-full";
        assert_eq!(for_backend(said), said);
    }

    #[test]
    fn the_provider_comes_from_a_mirror_or_is_kept() {
        assert!(cli_config(Some(Path::new("/m \"x\"")), Path::new("/c")).contains(r#"path = "/m \"x\"""#));
        assert!(cli_config(None, Path::new("/c")).contains("plugin_cache_dir = \"/c\""));
    }
}
