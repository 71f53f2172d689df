//! A tenant under fire, seen from inside the server: its context, and what its connections and rows have to say.

use futures_util::stream::{StreamExt, iter};
use sqlx::PgConnection;

use crate::data_plane::TenantContext;
use crate::kernel::Result;
use crate::testkit::TestApp;
use crate::testkit::load::Tenant;

/// A tenant of a running app.
#[derive(Clone)]
pub struct Resident {
    pub slug: String,
    /// What each of its rows begins with.
    pub stamp: String,
    /// Its login, which is also the name of its schema.
    pub role: String,
    pub context: TenantContext,
}

/// Where a connection says it is, with the words of one row found there.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Seen {
    pub words: String,
    pub login: String,
    pub acting_as: String,
    pub schema: Option<String>,
}

/// The contexts that the first replica would give to requests of these tenants.
///
/// # Panics
/// When one is not known or not placed.
pub async fn residents(app: &TestApp, tenants: &[Tenant]) -> Vec<Resident> {
    let look = |tenant: &Tenant| {
        let (slug, stamp) = (tenant.slug().to_owned(), tenant.stamp());
        async move {
            let detail = app.world.show(&slug).await;
            let http = &app.replicas[0].http;
            let known = http.directory.tenant(detail.tenant.id).await.expect("the directory answers");
            let context = http.context_for(known.expect("the tenant is known"));
            Resident { slug, stamp, role: detail.role.expect("the tenant is placed"), context }
        }
    };
    iter(tenants).map(look).buffered(4).collect().await
}

impl Resident {
    /// What is wrong with what one of its requests saw, if anything.
    pub fn foreign(&self, seen: &[Seen]) -> Option<String> {
        if seen.is_empty() {
            return Some(format!("{}: none of its rows", self.slug));
        }
        let own = |seen: &Seen| {
            seen.words.starts_with(&self.stamp)
                && seen.login == self.role
                && seen.acting_as == self.role
                && seen.schema.as_deref() == Some(&self.role)
        };
        let foreign = seen.iter().find(|seen| !own(seen))?;
        Some(format!("{} ({}) was shown {foreign:?}", self.slug, self.role))
    }
}

/// A few rows of whoever's connection this is, and whose it says it is: one round trip.
pub async fn look(conn: &mut PgConnection) -> Result<Vec<Seen>> {
    Ok(sqlx::query_as(
        "SELECT title AS words, session_user::text AS login, current_user::text AS acting_as,
                current_schema()::text AS schema
           FROM tasks LIMIT 3",
    )
    .fetch_all(conn)
    .await?)
}
