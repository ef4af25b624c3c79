//! Decides whether the machines that a previous server has left can belong to this server's settings. The lifecycle
//! asks before [`crate::Network::start`], so that a server with changed settings refuses to start before it has
//! touched anything.

use crate::block::Ipv4Block;
use crate::config::NetworkConfig;
use crate::error::NetworkError;
use crate::links;
use crate::plan::{SlotPlan, veth_name};
use std::net::Ipv4Addr;

/// The reason why the machine of a running sandbox cannot be taken over under these settings, as the end of a sentence
/// that begins with the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TakeoverObstacle {
    /// The slot's link has an address that the configured block does not give it.
    #[error(
        "was started with a link_block that begins at {found}, and link_block is {configured} now, where its network \
         link would have other addresses: set link_block back to what it was"
    )]
    OtherLinkBlock {
        configured: Ipv4Block,
        /// The first address of the block that it was started with.
        found: Ipv4Addr,
    },
    /// The machine runs as a uid that does not follow from the configured base uid.
    #[error("was started with base_uid {found}, and base_uid is {configured} now: set base_uid = {found}")]
    OtherBaseUid {
        configured: u32,
        /// The base uid that it was started with.
        found: u32,
    },
}

/// Looks what keeps each of these machines, given as (index of its slot, uid), from being taken over; `None` if nothing
/// does. Reads the addresses of the calling thread's namespace once, and changes nothing. A machine whose veth is
/// missing has no obstacle here: [`crate::Network::adopt`] says what is wrong with it.
pub fn check_takeover(
    config: &NetworkConfig,
    machines: &[(u32, u32)],
) -> Result<Vec<Option<TakeoverObstacle>>, NetworkError> {
    let addresses = links::addresses()?;
    Ok(machines.iter().map(|(index, uid)| obstacle(config, &addresses, *index, *uid)).collect())
}

fn obstacle(
    config: &NetworkConfig,
    addresses: &[(String, Ipv4Addr)],
    index: u32,
    uid: u32,
) -> Option<TakeoverObstacle> {
    if let Some(address) = foreign_address(config, addresses, index) {
        let found = Ipv4Addr::from_bits(address.to_bits().wrapping_sub(index.wrapping_mul(2)));
        return Some(TakeoverObstacle::OtherLinkBlock { configured: config.link_block, found });
    }
    let expected = config.base_uid.checked_add(index);
    let found = uid.saturating_sub(index);
    (expected != Some(uid)).then_some(TakeoverObstacle::OtherBaseUid { configured: config.base_uid, found })
}

/// Returns an address of the slot's veth if it has one, and none of its addresses is the one that its index decides.
fn foreign_address(config: &NetworkConfig, addresses: &[(String, Ipv4Addr)], index: u32) -> Option<Ipv4Addr> {
    let veth = veth_name(&config.instance, index);
    let found: Vec<Ipv4Addr> = addresses.iter().filter(|(name, _)| *name == veth).map(|(_, ip)| *ip).collect();
    let is_own = |plan: SlotPlan| found.contains(&plan.root_address);
    if SlotPlan::of_left(config, index).is_some_and(is_own) { None } else { found.first().copied() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetworkConfig {
        NetworkConfig { instance: "a1b2".into(), base_uid: 2_000_000, max_slots: 4, ..NetworkConfig::default() }
    }

    fn addresses() -> Vec<(String, Ipv4Addr)> {
        let (one, other) = (Ipv4Addr::new(10, 253, 0, 6), Ipv4Addr::new(10, 253, 8, 0));
        let own = [("lba1b2s3", one), ("lba1b2s400", other), ("eth0", Ipv4Addr::new(192, 0, 2, 1))];
        own.map(|(name, address)| (name.to_owned(), address)).to_vec()
    }

    #[test]
    fn a_machine_of_these_settings_has_no_obstacle_even_beyond_the_limit_of_slots() {
        assert_eq!(obstacle(&config(), &addresses(), 3, 2_000_003), None);
        assert_eq!(obstacle(&config(), &addresses(), 0x400, 2_001_024), None);
        assert_eq!(obstacle(&config(), &addresses(), 1, 2_000_001), None, "its veth is missing");
    }

    #[test]
    fn another_link_block_or_base_uid_is_named_with_what_it_was() {
        let other = NetworkConfig { link_block: "10.252.0.0/16".parse().expect("cidr"), ..config() };
        let found = obstacle(&other, &addresses(), 3, 2_000_003).expect("another block");
        let first = Ipv4Addr::new(10, 253, 0, 0);
        assert_eq!(found, TakeoverObstacle::OtherLinkBlock { configured: other.link_block, found: first });
        assert!(found.to_string().contains("link_block is 10.252.0.0/16"), "{found}");
        let smaller = NetworkConfig { link_block: "10.253.0.0/24".parse().expect("cidr"), ..config() };
        let found = obstacle(&smaller, &addresses(), 0x400, 2_001_024).expect("its addresses are beyond the block");
        assert_eq!(found, TakeoverObstacle::OtherLinkBlock { configured: smaller.link_block, found: first });
        let found = obstacle(&config(), &addresses(), 3, 2_097_155).expect("another base uid");
        assert_eq!(found, TakeoverObstacle::OtherBaseUid { configured: 2_000_000, found: 2_097_152 });
        assert!(found.to_string().contains("base_uid = 2097152"), "{found}");
    }
}
