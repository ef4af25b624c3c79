//! Claims what no two servers of one host may share: the instance, the link block and the uids.
//! [`crate::Network::start`] calls it.
//!
//! A claim is a name among the abstract Unix sockets, of which each network namespace has its own (unix(7)). The kernel
//! frees it when the process ends, however it ends, so no stale lock file can be left.

use crate::config::NetworkConfig;
use crate::error::NetworkError;
use std::collections::BTreeSet;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

// Uids of one claim. Two servers whose ranges only touch the same 1024 refuse each other as well, so it is small; the
// range of the default settings takes two claims.
const UIDS_PER_CLAIM: u32 = 1024;

/// The claims of one network, held while it exists.
#[derive(Debug)]
pub(crate) struct Claims {
    _sockets: Vec<UnixListener>,
}

/// Takes all claims of a network. `left` are the indices of slots that a previous server has left, which may be beyond
/// `max_slots`.
pub(crate) fn take(config: &NetworkConfig, left: &BTreeSet<u32>) -> Result<Claims, NetworkError> {
    let mut sockets = vec![
        claim(format!("instance {}", config.instance), "data_dir")?,
        claim(format!("link block {}", config.link_block), "link_block")?,
    ];
    for block in uid_blocks(config, left) {
        let first = block * UIDS_PER_CLAIM;
        sockets.push(claim(format!("uids {first} to {}", first + (UIDS_PER_CLAIM - 1)), "base_uid")?);
    }
    Ok(Claims { _sockets: sockets })
}

/// Returns the numbers of the blocks of [`UIDS_PER_CLAIM`] uids that the VMMs of new slots and of left ones may have.
fn uid_blocks(config: &NetworkConfig, left: &BTreeSet<u32>) -> BTreeSet<u32> {
    // `NetworkConfig::check` has made sure that this sum does not overflow.
    let new = config.base_uid..config.base_uid + config.max_slots;
    let left = left.iter().filter_map(|index| config.base_uid.checked_add(*index));
    new.chain(left).map(|uid| uid / UIDS_PER_CLAIM).collect()
}

fn claim(what: String, setting: &'static str) -> Result<UnixListener, NetworkError> {
    let bind = || UnixListener::bind_addr(&SocketAddr::from_abstract_name(format!("leapbox-network {what}"))?);
    bind().map_err(|source| NetworkError::Claimed { what, setting, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(base_uid: u32, max_slots: u32, left: &[u32]) -> Vec<u32> {
        let config = NetworkConfig { base_uid, max_slots, ..NetworkConfig::default() };
        uid_blocks(&config, &left.iter().copied().collect()).into_iter().collect()
    }

    #[test]
    fn every_uid_of_a_slot_is_in_a_claimed_block() {
        assert_eq!(blocks(2048, 1024, &[]), [2]);
        assert_eq!(blocks(2048, 1025, &[]), [2, 3]);
        assert_eq!(blocks(2047, 2, &[]), [1, 2]);
        assert_eq!(blocks(u32::MAX - 1, 1, &[]), [(1 << 22) - 1]);
    }

    #[test]
    fn the_uids_of_left_slots_beyond_the_limit_are_claimed_too() {
        assert_eq!(blocks(2048, 1, &[0, 5000, u32::MAX]), [2, 6]);
    }
}
