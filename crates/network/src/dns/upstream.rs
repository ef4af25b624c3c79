//! The name servers queries are forwarded to: configured ones, or the host's.

use crate::error::NetworkError;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use leapbox_errors::chain;
use parking_lot::Mutex;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How often the host's settings are looked at again, at most.
const RECHECK: Duration = Duration::from_secs(5);
/// When the next attempt is made, or the next server is asked.
const ATTEMPT_DEADLINE: Duration = Duration::from_millis(2500);

/// Where to forward to.
#[derive(Debug)]
pub(crate) enum Upstream {
    /// From the configuration.
    Fixed(Option<TokioResolver>),
    /// From /etc/resolv.conf.
    Host(Mutex<HostServers>),
}

/// The host's name servers as last read.
#[derive(Debug)]
pub(crate) struct HostServers {
    checked: Instant,
    modified: Option<SystemTime>,
    resolver: Option<TokioResolver>,
}

impl Upstream {
    pub(crate) fn new(configured: Option<&[SocketAddr]>) -> Result<Self, NetworkError> {
        match configured {
            Some(servers) => Ok(Self::Fixed(resolver(servers)?)),
            None => {
                let (modified, resolver) = (modified(), resolver(&read_resolv_conf())?);
                Ok(Self::Host(Mutex::new(HostServers { checked: Instant::now(), modified, resolver })))
            }
        }
    }

    /// The resolver of the moment; `None` when there is no name server to ask.
    pub(super) fn resolver(&self) -> Option<TokioResolver> {
        match self {
            Self::Fixed(resolver) => resolver.clone(),
            Self::Host(servers) => {
                let mut servers = servers.lock();
                servers.refresh();
                servers.resolver.clone()
            }
        }
    }
}

impl HostServers {
    fn refresh(&mut self) {
        if self.checked.elapsed() < RECHECK {
            return;
        }
        self.checked = Instant::now();
        let modified = modified();
        if modified == self.modified {
            return;
        }
        self.modified = modified;
        match resolver(&read_resolv_conf()) {
            Ok(resolver) => self.resolver = resolver,
            Err(error) => tracing::warn!(error = %chain(&error), "the host's changed name servers cannot be used"),
        }
    }
}

fn modified() -> Option<SystemTime> {
    std::fs::metadata(RESOLV_CONF).and_then(|metadata| metadata.modified()).ok()
}

/// The host's name servers; none if the file cannot be read.
pub(crate) fn read_resolv_conf() -> Vec<SocketAddr> {
    std::fs::read_to_string(RESOLV_CONF).map(|text| parse_resolv_conf(&text)).unwrap_or_default()
}

fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then_some(())?;
            let address: IpAddr = words.next()?.parse().ok()?;
            Some(SocketAddr::new(address, super::PORT))
        })
        .collect()
}

fn resolver(servers: &[SocketAddr]) -> Result<Option<TokioResolver>, NetworkError> {
    if servers.is_empty() {
        return Ok(None);
    }
    let servers = servers.iter().map(|server| name_server(*server)).collect();
    let config = ResolverConfig::from_parts(None, vec![], servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options();
    builder.build().map(Some).map_err(|source| NetworkError::DnsUpstream { source })
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        let connection: &mut ConnectionConfig = connection;
        connection.port = address.port();
    }
    server
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = ATTEMPT_DEADLINE;
    options.edns0 = true;
    // Asked side by side, servers that both cut an answer off over UDP are given up before one is asked over TCP.
    options.num_concurrent_reqs = 1;
    options.cache_size = 0;
    // The host's own /etc/hosts is none of a sandbox's business.
    options.use_hosts_file = ResolveHosts::Never;
    // One slot's many queries must not make the connection busy for the others.
    options.max_active_requests = super::limits::MAX_QUERIES;
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_nameserver_lines_count() {
        let text = "# nameserver 1.1.1.1\nsearch example.com\nnameserver 9.9.9.9\n  nameserver\t2001:db8::1 # x\nnameserver\nnameservers 8.8.8.8\n";
        let expected: Vec<SocketAddr> =
            vec!["9.9.9.9:53".parse().expect("v4"), "[2001:db8::1]:53".parse().expect("v6")];
        assert_eq!(parse_resolv_conf(text), expected);
    }
}
