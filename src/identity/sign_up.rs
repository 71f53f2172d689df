//! A person makes a workspace of their own: the tenant and the owner's seat in one transaction.

use std::time::Instant;

use chrono::TimeDelta;
use garde::Validate;
use serde::Serialize;
use sqlx::PgConnection;

use super::Identity;
use super::members::member_add;
use super::throttle::{self, Rate};
use crate::control_plane::audit::Caller;
use crate::control_plane::idempotency::{self, Claim};
use crate::control_plane::provisioning::{NewTenant, ready_at_once, tenant_create};
use crate::control_plane::tenants::TenantState;
use crate::kernel::ids::{AccountId, TenantId};
use crate::kernel::secret::sha256;
use crate::kernel::{Error, FieldError, Result, Role, codes};

/// Workspaces that one account may make: ten in a day, whatever became of them.
const MAKES: Rate = Rate { every: TimeDelta::minutes(144), burst: 10 };

/// A workspace that a person has a seat in.
#[derive(Clone, Debug, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct Workspace {
    pub tenant: TenantId,
    pub slug: String,
    pub name: String,
    pub state: TenantState,
    pub role: Role,
}

/// A person's workspaces, by name; those on their way out are not among them.
pub async fn workspace_list(conn: &mut PgConnection, account: AccountId) -> Result<Vec<Workspace>> {
    Ok(sqlx::query_as(
        "SELECT t.id AS tenant, t.slug, t.name, t.state, m.role
           FROM membership m JOIN tenant t ON t.id = m.tenant
          WHERE m.account = $1 AND t.state IN ('provisioning', 'active', 'suspended')
          ORDER BY lower(t.name), t.id",
    )
    .bind(account)
    .fetch_all(conn)
    .await?)
}

impl Identity {
    /// Makes a workspace with `account` as its owner. `token` stands for one sending of one form: sent again, it leads to
    /// the same workspace. The tenant may still be on its way (see its run).
    ///
    /// # Errors
    /// Those of [`tenant_create`]; `forbidden` where people may not make their own; `rate_limited` after ten in a day;
    /// `idempotency_conflict` for another form with the same token.
    pub async fn workspace_make(
        &self,
        caller: &Caller,
        account: AccountId,
        new: &NewTenant,
        token: &str,
    ) -> Result<TenantId> {
        if !self.settings.sign_up {
            return Err(Error::new(&codes::FORBIDDEN).detail("workspaces are made by invitation here"));
        }
        new.validate().map_err(fields)?;
        let (scope, now) = (format!("account:{account}"), self.cp.clock.now());
        let hash = sha256(&serde_json::to_vec(new).map_err(Error::internal)?);
        let _turn = self.cp.turns.take().await;
        let mut tx = self.cp.db.begin().await?;
        match idempotency::claim(&mut tx, &scope, token, &hash, now).await? {
            Claim::New => {}
            Claim::InFlight { tenant } => return Ok(tenant),
            Claim::Answered { .. } => return Err(Error::internal("a sign-up keeps no answer")),
        }
        // In this transaction: one that is not made does not count.
        throttle::take(&mut tx, &format!("workspace:{account}"), MAKES, now).await?;
        let begun = Instant::now();
        let (tenant, _) = tenant_create(&self.cp, &mut tx, caller, new).await?;
        member_add(&mut tx, caller, tenant.id, account, Role::Owner, None, now).await?;
        idempotency::attach(&mut tx, &scope, token, tenant.id).await?;
        tx.commit().await?;
        if tenant.state == TenantState::Active {
            ready_at_once(begun);
        }
        Ok(tenant.id)
    }
}

fn fields(report: garde::Report) -> Error {
    Error::fields(
        report
            .iter()
            .map(|(path, error)| FieldError { field: path.to_string(), message: error.message().to_string() })
            .collect(),
    )
}

/// An address made of a name: `Acme & Söhne GmbH` gives `acme-sohne-gmbh`. May be empty, too short or taken.
pub fn slug_of(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars().flat_map(char::to_lowercase).flat_map(plain) {
        if c.is_ascii_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.len() >= 40 {
            break;
        }
    }
    slug.trim_matches('-').to_owned()
}

/// A letter without its marks, for the letters that names in Europe have.
fn plain(c: char) -> Option<char> {
    Some(match c {
        'à' | 'á' | 'â' | 'ã' | 'ä' | 'å' | 'ā' | 'ă' | 'ą' => 'a',
        'ç' | 'ć' | 'č' => 'c',
        'ď' | 'đ' => 'd',
        'è' | 'é' | 'ê' | 'ë' | 'ē' | 'ę' | 'ě' => 'e',
        'ğ' => 'g',
        'ì' | 'í' | 'î' | 'ï' | 'ī' | 'ı' => 'i',
        'ł' => 'l',
        'ñ' | 'ń' | 'ň' => 'n',
        'ò' | 'ó' | 'ô' | 'õ' | 'ö' | 'ø' | 'ő' => 'o',
        'ř' => 'r',
        'ś' | 'š' | 'ş' | 'ß' => 's',
        'ť' | 'ţ' => 't',
        'ù' | 'ú' | 'û' | 'ü' | 'ū' | 'ů' | 'ű' => 'u',
        'ý' | 'ÿ' => 'y',
        'ź' | 'ż' | 'ž' => 'z',
        '\u{300}'..='\u{36f}' => return None,
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_an_address() {
        for (name, slug) in [
            ("Acme", "acme"),
            ("  Acme & Söhne GmbH ", "acme-sohne-gmbh"),
            ("Ærø", "ro"),
            ("日本", ""),
            ("a--b", "a-b"),
        ] {
            assert_eq!(slug_of(name), slug, "{name}");
        }
        assert!(slug_of(&"x".repeat(500)).len() <= 40);
    }
}
