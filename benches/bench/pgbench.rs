//! How fast this machine's PostgreSQL answers at all: pgbench, which comes with it, on the read that is measured.
//! A scale for the other figures.

use std::process::Stdio;
use std::time::Duration;

use freehold::local::binaries::Places;
use reqwest::Url;

/// Reads a second over so many connections, prepared, for that long. `url` is the database's, `query` one statement.
///
/// # Errors
/// Why it could not be measured, in words: pgbench is a package of its own on some systems.
pub async fn reads(url: &str, query: &str, connections: usize, length: Duration) -> Result<f64, String> {
    let beside = Places::system().postgres().map_err(|error| error.to_string())?.program("pgbench");
    let program = if beside.exists() { beside } else { "pgbench".into() };
    let script = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    std::fs::write(script.path(), format!("{query};\n")).map_err(|error| error.to_string())?;
    let output = tokio::process::Command::new(program)
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--client", &connections.to_string()])
        .args(["--time", &length.as_secs().max(1).to_string(), "--file"])
        .arg(script.path())
        .envs(libpq(url)?)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("pgbench: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.ok_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// How programs that bring libpq are told of a database.
///
/// # Errors
/// When `url` is none.
pub fn libpq(url: &str) -> Result<[(&'static str, String); 5], String> {
    let url = Url::parse(url).map_err(|error| error.to_string())?;
    Ok([
        ("PGHOST", url.host_str().unwrap_or_default().to_owned()),
        ("PGPORT", url.port().unwrap_or(5432).to_string()),
        ("PGUSER", url.username().to_owned()),
        ("PGPASSWORD", url.password().unwrap_or_default().to_owned()),
        ("PGDATABASE", url.path().trim_start_matches('/').to_owned()),
    ])
}
