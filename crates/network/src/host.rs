//! Collects what `leapbox doctor` needs to know of the host's network, as plain data.

use crate::dns::read_resolv_conf;
use crate::error::NetworkError;
use crate::nft;
use crate::plan::table_name;
use crate::sysctl;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// The facts about the host's network. `doctor` judges and words them.
#[derive(Debug)]
pub struct HostFacts {
    /// The version line of `nft`, or why it cannot be run. Slots cannot be made without it.
    pub nft: Result<String, NetworkError>,
    /// Whether /dev/net/tun can be opened, or why not. Slots cannot be made without it.
    pub tun: io::Result<()>,
    /// Whether the namespace already forwards IPv4; [`crate::Network::start`] turns it on. `None` if that cannot be
    /// read.
    pub ip_forward: Option<bool>,
    /// Other programs' chains that drop forwarded packets by default, as Docker and firewalls make them. An `accept` in
    /// Leapbox's table cannot overrule them, so sandboxes reach nothing until the operator allows it there
    /// (`DOCKER-USER`, a firewall zone).
    pub forward_drops: Vec<ForwardDrop>,
    /// Whether rules of the old iptables are loaded as well. `nft` does not list them, so their policies are not known.
    pub legacy_iptables: bool,
    /// The host's name servers, to which sandboxes' queries are forwarded unless others are configured.
    pub name_servers: Vec<SocketAddr>,
}

/// A base chain on the forward hook whose policy is to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardDrop {
    /// The nftables family, such as `ip` or `inet`.
    pub family: String,
    pub table: String,
    pub chain: String,
}

/// Collects the facts about the calling thread's network namespace. Blocks for some milliseconds.
pub fn host_facts(instance: &str) -> HostFacts {
    // Without nft there is nothing to list; `nft` below says so.
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
