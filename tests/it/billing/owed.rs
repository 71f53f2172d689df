//! What whoever owes money may still do in a workspace.

use std::collections::BTreeSet;
use std::path::Path;

use freehold::app;
use freehold::billing::access::Access;
use freehold::data_plane::tenancy::decide::paid;
use http::Method;

/// Makes something new: refused while money is owed.
const MAKES: &[&str] = &[
    "/api-keys",
    "/api/v1/api-keys",
    "/api/v1/domains",
    "/api/v1/invitations",
    "/api/v1/projects",
    "/api/v1/tasks",
    "/api/v1/tasks/{id}/comments",
    "/members/invite",
    "/projects",
    "/projects/{project}/tasks",
    "/sign-on/domains",
];
/// Changes what is there, or takes it away.
const CHANGES: &[&str] = &[
    "/api-keys/revoke",
    "/api/v1/domains/{domain}/verify",
    "/api/v1/invitations/{id}/resend",
    "/api/v1/ownership/transfer",
    "/api/v1/sessions/revoke-others",
    "/api/v1/sso/require",
    "/audit/support/end",
    "/members/invitations/resend",
    "/members/invitations/revoke",
    "/members/remove",
    "/members/role",
    "/sessions/revoke",
    "/sessions/revoke-others",
    "/sign-on/domains/join",
    "/sign-on/domains/remove",
    "/sign-on/domains/verify",
    "/sign-on/provider",
    "/sign-on/provider/remove",
    "/sign-on/require",
    "/tasks/{task}/status",
];

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Paths that a source routes POST to: those and their handlers stand on one line.
fn routed(source: &str) -> impl Iterator<Item = String> {
    source.split(".route(\"").skip(1).filter_map(|rest| {
        let (path, handlers) = rest.split_once('"')?;
        handlers.lines().next()?.contains("post(").then(|| path.to_owned())
    })
}

/// Every POST of a workspace: of its API, and of its pages.
fn posts() -> BTreeSet<String> {
    let api = app::openapi().paths.paths;
    let own = api.into_iter().filter(|(path, item)| item.post.is_some() && !path.starts_with("/operator"));
    let mut all: BTreeSet<String> = own.map(|(path, _)| path).collect();
    let pages = read("src/http/pages/mod.rs");
    let (_, routes) = pages.split_once("pub fn workspace_routes").expect("the workspace's pages");
    let routes = routes.split("\n}\n").next().unwrap_or_default();
    for module in routes
        .split("::routes(")
        .filter_map(|before| before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next())
    {
        if !module.is_empty()
            && Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/http/pages/{module}.rs")).exists()
        {
            all.extend(routed(&read(&format!("src/http/pages/{module}.rs"))));
        }
    }
    all.extend(routed(&read("src/product/opsflow/pages.rs")));
    all
}

/// The door knows what makes something new by the last word of a path. Whoever adds a POST says here which it is, and finds out
/// whether the door agrees.
///
/// Guards `decide::CHANGES`.
#[tokio::test]
async fn every_post_of_a_workspace_makes_something_new_or_changes_what_is_there() {
    let listed: BTreeSet<String> = MAKES.iter().chain(CHANGES).map(|path| (*path).to_owned()).collect();
    assert_eq!(posts(), listed, "a POST that is on no list, or on a list and nowhere else");
    for path in MAKES {
        assert!(paid(Access::PastDue, &Method::POST, Some(path)).is_err(), "{path}");
    }
    for path in CHANGES {
        assert!(paid(Access::PastDue, &Method::POST, Some(path)).is_ok(), "{path}");
    }
}
