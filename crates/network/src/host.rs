//! What `leapbox doctor` wants to know of the host's network, as plain data.

use crate::dns::read_resolv_conf;
use crate::error::NetworkError;
use crate::nft;
use crate::plan::table_name;
use crate::sysctl;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// Facts, not judgements: `doctor` words them.
#[derive(Debug)]
pub struct HostFacts {
    /// `nft --version`, or why it cannot be run. Needed.
    pub nft: Result<String, NetworkError>,
    /// /dev/net/tun opens, or why not. Needed.
    pub tun: io::Result<()>,
    /// Whether the namespace forwards IPv4 already; [`crate::Network::start`] turns it on.
    pub ip_forward: Option<bool>,
    /// Chains of others that drop forwarded packets by default, as Docker and firewalls make them. An `accept` of
    /// ours cannot overrule them: sandboxes have no way out until the operator lets them (`DOCKER-USER`, a zone).
    pub forward_drops: Vec<ForwardDrop>,
    /// Old-style iptables rules are loaded as well; their policies cannot be seen here.
    pub legacy_iptables: bool,
    /// Name servers of the host, which queries are forwarded to unless configured otherwise.
    pub name_servers: Vec<SocketAddr>,
}

/// A base chain on the forward hook whose policy is to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardDrop {
    /// `ip`, `inet` …
    pub family: String,
    pub table: String,
    /// Its name.
    pub chain: String,
}

/// Looks at the calling thread's network namespace. Blocks for some milliseconds.
pub fn host_facts(instance: &str) -> HostFacts {
    let chains = nft::chains_json().unwrap_or_default();
    HostFacts {
        nft: nft::version(),
        tun: std::fs::OpenOptions::new().read(true).write(true).open(crate::tap::TUN_DEVICE).map(drop),
        ip_forward: sysctl::read(Path::new(sysctl::IP_FORWARD)).ok().map(|value| value == "1"),
        forward_drops: forward_drops(&chains, &table_name(instance)),
        legacy_iptables: std::fs::read_to_string("/proc/net/ip_tables_names").is_ok_and(|text| !text.trim().is_empty()),
        name_servers: read_resolv_conf(),
    }
}

fn forward_drops(chains_json: &str, own_table: &str) -> Vec<ForwardDrop> {
    let listing: serde_json::Value = serde_json::from_str(chains_json).unwrap_or_default();
    let entries = listing["nftables"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .map(|entry| &entry["chain"])
        .filter(|chain| chain["hook"] == "forward" && chain["policy"] == "drop" && chain["table"] != own_table)
        .map(|chain| ForwardDrop {
            family: text(&chain["family"]),
            table: text(&chain["table"]),
            chain: text(&chain["name"]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_forward_chain_that_drops_by_default_is_found() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "leapbox_a1b2", "name": "f", "hook": "forward", "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "DOCKER"}}]}"#;
        let found = ForwardDrop { family: "ip".into(), table: "filter".into(), chain: "FORWARD".into() };
        assert_eq!(forward_drops(json, "leapbox_a1b2"), vec![found]);
        assert_eq!(forward_drops("not json", "x"), vec![]);
    }
}
