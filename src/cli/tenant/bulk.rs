//! Many tenants from a file.

use std::io::Read;
use std::path::Path;

use futures_util::{StreamExt, stream};

use super::many;
use crate::cli::Globals;
use crate::cli::fleet::Fleet;
use crate::cli::output::print;
use crate::control_plane::provisioning::NewTenant;
use crate::control_plane::tenants::Tenant;
use crate::kernel::page::Page;
use crate::kernel::{Error, Result, codes};

/// Made side by side: enough to hide round trips, few enough for the control database's pool.
const SIDE_BY_SIDE: usize = 8;

/// Makes every tenant that the file names. One that fails does not stop the others.
///
/// # Errors
/// When the file cannot be read, before anything is made; the first failure, after all were tried.
pub async fn create(globals: &Globals, fleet: &Fleet, from: Option<&Path>) -> Result<()> {
    let wanted = parse(&read(from)?)?;
    let bar = globals.progress().count(wanted.len() as u64, "tenants");
    let made = stream::iter(&wanted).map(|new| async {
        let outcome = fleet.tenant_create(new).await;
        bar.inc(1);
        (new.slug.as_str(), outcome)
    });
    let outcomes: Vec<(&str, Result<Tenant>)> = made.buffered(SIDE_BY_SIDE).collect().await;
    bar.finish_and_clear();
    let (mut tenants, mut failures) = (Vec::new(), Vec::new());
    for (slug, outcome) in outcomes {
        match outcome {
            Ok(tenant) => tenants.push(tenant),
            Err(error) => failures.push((slug, error)),
        }
    }
    print(globals.output, &Page::whole(tenants), |page| many(&page.items))?;
    summary(wanted.len(), failures)
}

/// All failures in one error, of the first one's kind.
fn summary(wanted: usize, failures: Vec<(&str, Error)>) -> Result<()> {
    let Some((_, first)) = failures.first() else { return Ok(()) };
    let mut text = format!("{} of {wanted} tenants were not made", failures.len());
    for (slug, error) in &failures {
        text += &format!("\n  {slug}: {error}");
    }
    let hint = "those that were made stay; take them out of the file before trying again";
    Err(Error::new(first.code()).detail(text).hint(hint))
}

fn read(from: Option<&Path>) -> Result<String> {
    let stdin = || {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    };
    let read = match from {
        Some(path) if path != Path::new("-") => std::fs::read_to_string(path),
        _ => stdin(),
    };
    read.map_err(|error| Error::new(&codes::BAD_REQUEST).detail(format!("the file cannot be read: {error}")))
}

fn parse(text: &str) -> Result<Vec<NewTenant>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| {
                Error::new(&codes::BAD_REQUEST)
                    .detail(format!("line {} is not a tenant: {error}", index + 1))
                    .hint(r#"a line looks like {"slug": "acme", "name": "Acme Inc.", "plan": "team"}"#)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_tenant_is_named() {
        let fine = "{\"slug\": \"acme\"}\n\n{\"slug\": \"globex\", \"plan\": \"team\"}\n";
        assert_eq!(parse(fine).unwrap().len(), 2);
        let error = parse("{\"slug\": \"acme\"}\n{\"slag\": \"globex\"}").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
