//! Where a tenant's rows are and how its login gets there.

use std::sync::Arc;

use secrecy::ExposeSecret;
use sqlx::postgres::PgConnectOptions;

use crate::db::tenant_tls::TenantTls;
use crate::kernel::MasterKey;
use crate::kernel::ids::ShardId;

/// Statements kept prepared per connection. A product has some dozens; more would cost backend memory per tenant.
const PREPARED_STATEMENTS: usize = 64;

/// A shard's database as the data plane reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A host name, an address, or the directory of a Unix socket.
    pub host: String,
    pub port: u16,
    pub database: String,
    pub tls: Tls,
}

/// How much the connection to a shard is protected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Tls {
    /// Plain: for a Unix socket or a network that is protected otherwise.
    Off,
    /// Encrypted, certificate and host name checked, against the public authorities or these, as PEM.
    Verify { ca: Option<Arc<str>> },
}

/// All the broker needs to open a connection of one tenant.
#[derive(Clone, Debug)]
pub struct Login {
    pub shard: ShardId,
    pub endpoint: Arc<Endpoint>,
    /// The tenant's login role, which is also the name of its schema.
    pub role: Arc<str>,
    pub credential_version: i32,
    /// The placement's epoch. Connections opened under an older one are not used any more.
    pub epoch: i64,
    /// Most connections of this tenant at a time, from its plan.
    pub ceiling: u32,
}

impl Login {
    /// What has to be equal for an open connection to still be the right one; later is newer.
    pub(super) fn version(&self) -> (i64, i32) {
        (self.epoch, self.credential_version)
    }

    pub(super) fn options(&self, key: &MasterKey) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass()
            .host(&self.endpoint.host)
            .port(self.endpoint.port)
            .database(&self.endpoint.database)
            .username(&self.role)
            .password(key.login_password(&self.role, self.credential_version).expose_secret())
            .application_name("freehold")
            .statement_cache_capacity(PREPARED_STATEMENTS)
            // The release step may roll back where nothing is open; the server's warning about it says nothing.
            .options([("client_min_messages", "error")]);
        match &self.endpoint.tls {
            Tls::Off => TenantTls::apply(Some("disable"), None, options),
            Tls::Verify { ca } => TenantTls::apply(None, ca.as_deref(), options),
        }
    }
}
