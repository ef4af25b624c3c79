//! Builds the two rule sets as text, the host-wide table and a slot's own, and the elements that make a policy of them.
//! It does no I/O; `nft` applies them.

use crate::config::NetworkConfig;
use crate::plan::{SlotPlan, VETH_PREFIX, table_name, veth_prefix};
use leapbox_egress::PROXY_MARK;
use leapbox_egress_policy::{CLOSED_NETWORKS, Cidr, merged};
use leapbox_guest_protocol::net;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Port of the egress proxy inside a slot; it listens if the policy is not `allow-all`.
pub(crate) const PROXY_PORT: u16 = 15001;
/// Name of the tables inside a slot.
const SLOT_TABLE: &str = "leapbox";
/// The bit of a packet's mark that the host-wide table sets and the guard asks for. It is none of those that
/// Kubernetes, Calico, Cilium and Tailscale use by default.
pub(crate) const CHECKED_MARK: u32 = 0x4000_0000;
/// The netfilter log group to which a slot's rules log refused packets.
pub(crate) const LOG_GROUP: u16 = 1;
// Connections to the proxy that a slot's kernel tracks at a time. It is above the 1024 that the proxy itself takes, so
// that the proxy refuses first and says so in the journal; a flood beyond it is dropped by the kernel.
const MAX_PROXIED: u32 = 2048;

/// Returns the script for the host-wide table. Its rules replace those of an older table of the same installation
/// between two packets.
pub(crate) fn host_table(config: &NetworkConfig) -> String {
    let block = config.link_block.to_string();
    let mut closed: Vec<&str> = CLOSED_NETWORKS.iter().map(|(network, _)| *network).collect();
    // The block may be one of public addresses, and other sandboxes are in it.
    closed.push(&block);
    let table = table_name(&config.instance);
    let cidrs = &config.egress_private_cidrs;
    // Merged, because an interval set takes no overlapping elements. Single addresses are those that the operator wrote
    // as such: one that lies in a network of the list as well still opens the host's own address.
    let hosts: BTreeSet<Ipv4Addr> = cidrs.iter().filter(|cidr| is_single_address(cidr)).map(Cidr::first).collect();
    let operator = add(&table, "operator", merged(cidrs).iter().map(range))
        + &add(&table, "operator_hosts", hosts.iter().map(Ipv4Addr::to_string));
    include_str!("rules/host.nft")
        .replace("%OPERATOR%", &operator)
        .replace("%TABLE%", &table)
        .replace("%SLOTS%", &format!("{}*", veth_prefix(&config.instance)))
        .replace("%ANY_SLOTS%", &format!("{VETH_PREFIX}*"))
        .replace("%BLOCKED%", &closed.join(", "))
        .replace("%MARK%", &PROXY_MARK.to_string())
        .replace("%CHECKED%", &CHECKED_MARK.to_string())
        .replace("%NOT_CHECKED%", &(!CHECKED_MARK).to_string())
        .replace("%LINKS%", &block)
}

/// Returns the script that makes the host-wide table again with everything in it: these are the networks that are
/// opened to each slot.
pub(crate) fn restored_host_table(config: &NetworkConfig, opened: &[(Ipv4Addr, Vec<Cidr>)]) -> String {
    let open = |(slot, networks): &(Ipv4Addr, Vec<Cidr>)| open_networks(&config.instance, *slot, networks);
    host_table(config) + &opened.iter().map(open).collect::<String>()
}

/// Whether the operator's entry is a single address. Only such entries can open an address of the host itself.
fn is_single_address(cidr: &Cidr) -> bool {
    // An entry for a whole network must not open the host's own address in it by accident.
    cidr.first() == cidr.last()
}

/// Returns an inclusive range as an element of an interval set.
fn range((first, last): &(Ipv4Addr, Ipv4Addr)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn add(table: &str, set: &str, elements: impl Iterator<Item = String>) -> String {
    edit("add", table, set, elements)
}

fn edit(verb: &str, table: &str, set: &str, elements: impl Iterator<Item = String>) -> String {
    let elements: Vec<String> = elements.collect();
    match elements.as_slice() {
        // nft refuses an empty list.
        [] => String::new(),
        elements => format!("{verb} element inet {table} {set} {{ {} }}\n", elements.join(", ")),
    }
}

/// Returns the script that opens networks to one slot in the host-wide table; [`close_networks`] undoes it.
pub(crate) fn open_networks(instance: &str, slot: Ipv4Addr, networks: &[Cidr]) -> String {
    edit_opened("add", instance, slot, networks)
}

/// Returns the script that closes what [`open_networks`] has opened.
pub(crate) fn close_networks(instance: &str, slot: Ipv4Addr, networks: &[Cidr]) -> String {
    edit_opened("delete", instance, slot, networks)
}

fn edit_opened(verb: &str, instance: &str, slot: Ipv4Addr, networks: &[Cidr]) -> String {
    edit(verb, &table_name(instance), "named", networks.iter().map(|cidr| format!("{slot} . {cidr}")))
}

/// Returns the script that adds a policy to a new slot, as elements of its two sets. The ranges must be disjoint.
pub(crate) fn slot_policy_script(direct: &[(Ipv4Addr, Ipv4Addr)], closed_udp: &[u16]) -> String {
    add(SLOT_TABLE, "direct", direct.iter().map(range))
        + &add(SLOT_TABLE, "closed_udp", closed_udp.iter().map(u16::to_string))
}

/// Returns the script that removes a slot's policy. [`slot_policy_script`] must follow it in the same transaction.
pub(crate) fn no_slot_policy() -> String {
    // For an adopted slot only: the kernel makes a transaction that removes elements wait for a grace period.
    format!("flush set inet {SLOT_TABLE} direct\nflush set inet {SLOT_TABLE} closed_udp\n")
}

/// Returns the script that removes the host-wide table, whether or not it exists.
pub(crate) fn no_host_table(instance: &str) -> String {
    let table = table_name(instance);
    // Deleting a table that does not exist is an error, so it is added first.
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// Returns the script for a slot's own rules, which replace older ones between two packets.
pub(crate) fn slot_tables(plan: &SlotPlan) -> String {
    include_str!("rules/slot.nft")
        .replace("%WORKLOAD_MAC%", &net::mac_string(net::WORKLOAD_GUEST_MAC))
        .replace("%WORKLOAD_GUEST%", &net::WORKLOAD_GUEST.to_string())
        .replace("%GATEWAY%", &net::WORKLOAD_GATEWAY.to_string())
        .replace("%CHANNEL_MAC%", &net::mac_string(net::CHANNEL_GUEST_MAC))
        .replace("%CHANNEL_HOST%", &net::CHANNEL_HOST.to_string())
        .replace("%CHANNEL_GUEST%", &net::CHANNEL_GUEST.to_string())
        .replace("%SLOT_ADDRESS%", &plan.slot_address.to_string())
        .replace("%PROXY%", &PROXY_PORT.to_string())
        .replace("%PROXIED%", &MAX_PROXIED.to_string())
        .replace("%LOG_GROUP%", &LOG_GROUP.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_placeholder_is_left_in_either_rule_set() {
        let config = NetworkConfig::default();
        assert!(!host_table(&config).contains('%'));
        assert!(!slot_tables(&SlotPlan::new(&config, 3)).contains('%'));
    }

    #[test]
    fn a_link_block_of_public_addresses_is_blocked_too() {
        let config = NetworkConfig { link_block: "93.0.0.0/16".parse().expect("cidr"), ..NetworkConfig::default() };
        assert!(host_table(&config).contains(", 93.0.0.0/16 }"));
    }

    #[test]
    fn a_policy_is_elements_of_named_sets_and_never_a_rule() {
        let address = |text: &str| text.parse().expect("address");
        let script = slot_policy_script(
            &[(address("1.2.3.0"), address("1.2.3.255")), (address("9.9.9.9"), address("9.9.9.9"))],
            &[443],
        );
        let expected = "add element inet leapbox direct { 1.2.3.0-1.2.3.255, 9.9.9.9 }\n\
                        add element inet leapbox closed_udp { 443 }\n";
        assert_eq!(script, expected);
        assert_eq!(slot_policy_script(&[], &[]), "", "closed is what a slot is born as");
    }

    #[test]
    fn only_a_single_address_of_the_operators_list_can_open_the_host_itself() {
        let cidrs = ["10.1.2.3/32", "10.2.0.0/16"].map(|text| Cidr::parse(text).expect("cidr"));
        let config = NetworkConfig { egress_private_cidrs: cidrs.to_vec(), ..NetworkConfig::default() };
        let table = host_table(&config);
        assert!(table.contains("operator { 10.1.2.3, 10.2.0.0-10.2.255.255 }"), "{table}");
        assert!(table.contains("operator_hosts { 10.1.2.3 }"), "{table}");
        assert_eq!(table.matches("@operator_hosts ip saddr . ip daddr @named accept").count(), 2);
    }

    #[test]
    fn overlapping_and_repeated_entries_of_the_operators_list_become_disjoint_elements() {
        let texts = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "10.1.2.3/32", "192.168.0.0/24", "192.168.0.0/24"];
        let cidrs = texts.map(|text| Cidr::parse(text).expect("cidr")).to_vec();
        let table = host_table(&NetworkConfig { egress_private_cidrs: cidrs, ..NetworkConfig::default() });
        assert!(table.contains("operator { 10.0.0.0-10.255.255.255, 192.168.0.0-192.168.0.255 }"), "{table}");
        // The single address stays one, though a network of the list contains it.
        assert!(table.contains("operator_hosts { 10.1.2.3 }"), "{table}");
    }

    #[test]
    fn a_restored_table_has_the_opened_networks_of_every_slot() {
        let networks = |texts: &[&str]| texts.iter().map(|text| Cidr::parse(text).expect("cidr")).collect::<Vec<_>>();
        let opened = [
            (Ipv4Addr::new(10, 253, 0, 1), networks(&["10.1.2.3", "10.2.0.0/16"])),
            (Ipv4Addr::new(10, 253, 0, 3), networks(&["10.1.2.3"])),
        ];
        let script = restored_host_table(&NetworkConfig::default(), &opened);
        let elements = "add element inet leapbox_0000 named { 10.253.0.1 . 10.1.2.3/32, 10.253.0.1 . 10.2.0.0/16 }\n\
                        add element inet leapbox_0000 named { 10.253.0.3 . 10.1.2.3/32 }\n";
        assert!(script.ends_with(elements), "{script}");
    }
}
