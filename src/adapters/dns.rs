//! Looks TXT records up, by the name servers of the system. Bounded in time and in what is taken of an answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData};
use tokio::sync::OnceCell;

use crate::identity::domains::TxtLookup;
use crate::kernel::{Error, Result};

/// How long one question to one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Records of an answer that are read.
const MOST_RECORDS: usize = 200;
/// Bytes of a record that are read. What is looked for is shorter.
const LONGEST_RECORD: usize = 1_024;

/// By the name servers of the system, which are read with the first question: a server starts without.
pub fn txt_lookup() -> TxtLookup {
    lookup(|| {
        let mut builder = TokioResolver::builder_tokio()?;
        bound(builder.options_mut());
        builder.build()
    })
}

/// By these name servers.
pub fn txt_lookup_at(servers: &[SocketAddr]) -> TxtLookup {
    let servers: Vec<NameServerConfig> = servers.iter().map(|server| name_server(*server)).collect();
    lookup(move || {
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.clone());
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        bound(builder.options_mut());
        builder.build()
    })
}

fn name_server(at: SocketAddr) -> NameServerConfig {
    let connection = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = at.port();
        connection
    };
    NameServerConfig::new(
        at.ip(),
        true,
        vec![connection(ProtocolConfig::Udp), connection(ProtocolConfig::Tcp)],
    )
}

fn bound(options: &mut ResolverOpts) {
    options.timeout = PATIENCE;
    options.attempts = 1;
    // Somebody who has just set a record wants it seen, and the server asked keeps answers itself.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
}

fn lookup(make: impl Fn() -> Result<TokioResolver, NetError> + Send + Sync + 'static) -> TxtLookup {
    let (made, make) = (Arc::new(OnceCell::new()), Arc::new(make));
    Arc::new(move |name| {
        let (made, make) = (made.clone(), make.clone());
        Box::pin(async move {
            let resolver: &TokioResolver =
                made.get_or_try_init(|| async { make() }).await.map_err(Error::internal)?;
            ask(resolver, &name).await
        })
    })
}

/// None for a name that is not there, or has no such record; an error when nobody says.
async fn ask(resolver: &TokioResolver, name: &str) -> Result<Vec<String>> {
    let mut name = Name::from_ascii(name).map_err(Error::internal)?;
    // As it stands: no search domains.
    name.set_fqdn(true);
    let found = match resolver.txt_lookup(name).await {
        Ok(found) => found,
        Err(error) if is_no(&error) => return Ok(Vec::new()),
        Err(error) => return Err(Error::internal(error)),
    };
    let texts = found.answers().iter().filter_map(|record| match &record.data {
        RData::TXT(txt) => Some(joined(&txt.txt_data)),
        _ => None,
    });
    Ok(texts.take(MOST_RECORDS).collect())
}

/// The name server says that there is nothing, which is an answer. That it has failed is none.
fn is_no(error: &NetError) -> bool {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(no)) => {
            matches!(no.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
        }
        _ => false,
    }
}

/// A record's parts as one text. What is no text is not what is looked for.
fn joined(parts: &[Box<[u8]>]) -> String {
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).take(LONGEST_RECORD).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
