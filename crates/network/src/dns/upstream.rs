//! The forwarder, and the upstream name servers that it asks: configured ones, or the host's.

use crate::error::NetworkError;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use leapbox_errors::chain;
use parking_lot::Mutex;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

const RESOLV_CONF: &str = "/etc/resolv.conf";
// The host's settings may change (DHCP, VPN). Looking at the file for each query would cost a system call in front of
// each.
/// Shortest time between two looks at the host's settings.
const RECHECK: Duration = Duration::from_secs(5);
/// The time after which an attempt is repeated, or the next server is asked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(2500);

/// The source of the upstream name servers, and the forwarder to them.
#[derive(Debug)]
pub(crate) enum Upstream {
    /// The configured servers; `None` if the list is empty.
    Fixed(Option<TokioResolver>),
    /// The servers in /etc/resolv.conf, whose changes are followed.
    Host(Mutex<HostServers>),
}

/// The host's name servers as last read.
#[derive(Debug)]
pub(crate) struct HostServers {
    checked: Instant,
    modified: Option<SystemTime>,
    forwarder: Option<TokioResolver>,
}

impl Upstream {
    pub(crate) fn new(configured: Option<&[SocketAddr]>) -> Result<Self, NetworkError> {
        match configured {
            Some(servers) => Ok(Self::Fixed(forwarder(servers)?)),
            None => {
                let (modified, forwarder) = (modified(), forwarder(&read_resolv_conf())?);
                Ok(Self::Host(Mutex::new(HostServers { checked: Instant::now(), modified, forwarder })))
            }
        }
    }

    /// Returns the current forwarder, or `None` if there is no name server to ask.
    pub(super) fn forwarder(&self) -> Option<TokioResolver> {
        match self {
            Self::Fixed(forwarder) => forwarder.clone(),
            Self::Host(servers) => {
                let mut servers = servers.lock();
                servers.refresh();
                servers.forwarder.clone()
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
        match forwarder(&read_resolv_conf()) {
            Ok(forwarder) => self.forwarder = forwarder,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot use the host's new name servers; the previous ones stay")
            }
        }
    }
}

fn modified() -> Option<SystemTime> {
    std::fs::metadata(RESOLV_CONF).and_then(|metadata| metadata.modified()).ok()
}

/// Returns the host's name servers; none if the file cannot be read.
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

fn forwarder(servers: &[SocketAddr]) -> Result<Option<TokioResolver>, NetworkError> {
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
    options.timeout = ATTEMPT_TIMEOUT;
    options.edns0 = true;
    // One server after the other: asked in parallel, two servers that both truncate an answer over UDP are given up
    // before either is asked over TCP.
    options.num_concurrent_reqs = 1;
    // hickory's cache would be shared by all slots: see the module `dns`.
    options.cache_size = 0;
    // A sandbox must not learn the names in the host's own /etc/hosts.
    options.use_hosts_file = ResolveHosts::Never;
    // hickory's limit of 32 for each connection is shared by all slots: one slot's queries would make it busy for the
    // others.
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
