//! `freehold health`: does the process on this machine answer? For container images, which have no other program that
//! could ask.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use reqwest::{Client, Url};
use serde_json::Value;

use super::output::{Output, print};
use crate::kernel::{Error, Result, codes};

/// Shorter than what checks a container usually waits for the check.
const PATIENCE: Duration = Duration::from_secs(4);
/// A health page is a few hundred bytes. What answers with more is something else.
const MOST: usize = 16 << 10;

/// Ask the server or worker on this machine whether it is ready
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  freehold health                          # in a container, beside `freehold serve` or `freehold worker`
  freehold health --live                   # only whether the process still answers
  freehold health http://10.20.64.7:8080   # another machine's

Exits with 0 when it is ready, with 1 when it says that it is not, and with 5 when nothing answers within 4 seconds. It \
asks at --metrics-addr where that is given, since that listener answers even when all connections of the other are taken. \
A worker without --metrics-addr listens nowhere and cannot be asked.")]
pub struct HealthArgs {
    /// Whom to ask: scheme, host and port; this machine by default
    #[arg(value_name = "URL")]
    url: Option<Url>,

    /// Ask only whether it answers at all (/health/live), not whether it is ready
    #[arg(long)]
    live: bool,

    /// The metrics address that the process was given
    #[arg(long, env = "FREEHOLD_METRICS_ADDR", value_name = "ADDR")]
    metrics_addr: Option<SocketAddr>,

    /// The address that the server was given to listen on
    #[arg(long, env = "FREEHOLD_HTTP_ADDR", default_value = "127.0.0.1:8080", value_name = "ADDR")]
    http_addr: SocketAddr,
}

/// Asks, and prints the answer.
///
/// # Errors
/// `internal` when it is not ready, `timeout` when nothing answers, `bad_request` for an address that is none.
pub async fn run(args: &HealthArgs, output: Output) -> Result<()> {
    let url = args.address()?;
    let http = Client::builder()
        // A proxy knows nothing of this machine.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PATIENCE)
        .build()
        .map_err(Error::internal)?;
    let silent = |error: reqwest::Error| {
        let why = if error.is_timeout() { "it does not answer in time" } else { "no connection" };
        Error::new(&codes::TIMEOUT)
            .detail(format!("cannot ask {url}: {why}"))
            .hint("is it running, and do --metrics-addr or --http-addr say where it listens?")
            .source(error)
    };
    let mut answer = http.get(url.clone()).send().await.map_err(&silent)?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(&silent)? {
        body.extend_from_slice(&piece);
        if body.len() > MOST {
            return Err(Error::internal("a long answer").detail(format!("{url} is no health page")));
        }
    }
    let said: Option<Value> = serde_json::from_slice(&body).ok();
    match said {
        Some(said) if status.is_success() && said["status"].is_string() => {
            print(output, &said, |said| said["status"].as_str().unwrap_or_default().to_owned())
        }
        Some(said) if said["status"].is_string() => {
            Err(Error::new(&codes::INTERNAL).detail(format!("not ready: {said}")))
        }
        _ => {
            Err(Error::new(&codes::INTERNAL)
                .detail(format!("{url} answered {status}, and not as Freehold does")))
        }
    }
}

impl HealthArgs {
    fn address(&self) -> Result<Url> {
        let page = if self.live { "/health/live" } else { "/health/ready" };
        let mut url = match &self.url {
            Some(url) => url.clone(),
            None => {
                let at = reachable(self.metrics_addr.unwrap_or(self.http_addr));
                format!("http://{at}").parse().map_err(Error::internal)?
            }
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Error::new(&codes::BAD_REQUEST)
                .detail(format!("{url} is no address of a server"))
                .hint("it looks like http://10.20.64.7:8080"));
        }
        url.set_path(page);
        url.set_query(None);
        Ok(url)
    }
}

/// Who listens on all addresses is asked at loopback's.
fn reachable(listens: SocketAddr) -> SocketAddr {
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listens.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(url: Option<&str>, metrics: Option<&str>, http: &str, live: bool) -> String {
        let args = HealthArgs {
            url: url.map(|url| url.parse().unwrap()),
            live,
            metrics_addr: metrics.map(|addr| addr.parse().unwrap()),
            http_addr: http.parse().unwrap(),
        };
        args.address().map_or_else(|error| error.public_detail().unwrap().to_owned(), String::from)
    }

    #[test]
    fn the_process_of_this_container_is_asked() {
        assert_eq!(asked(None, None, "0.0.0.0:8080", false), "http://127.0.0.1:8080/health/ready");
        assert_eq!(asked(None, None, "[::]:8080", true), "http://[::1]:8080/health/live");
        assert_eq!(
            asked(None, Some("0.0.0.0:9090"), "0.0.0.0:8080", false),
            "http://127.0.0.1:9090/health/ready"
        );
        assert_eq!(
            asked(None, Some("10.0.0.7:9090"), "0.0.0.0:8080", false),
            "http://10.0.0.7:9090/health/ready"
        );
    }

    #[test]
    fn another_is_asked_when_it_is_named() {
        let http = "127.0.0.1:8080";
        assert_eq!(
            asked(Some("http://a:1/x?y=z"), Some("0.0.0.0:9090"), http, false),
            "http://a:1/health/ready"
        );
        assert_eq!(asked(Some("https://example.com"), None, http, true), "https://example.com/health/live");
        assert!(asked(Some("ftp://a/"), None, http, false).contains("no address"));
    }
}
