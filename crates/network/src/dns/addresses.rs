//! Reads the addresses in an answer: which of them a sandbox may see, and how long they are valid.

use hickory_resolver::proto::rr::{RData, Record};
use leapbox_egress_policy::{Denial, Evaluator};
use std::net::Ipv4Addr;

/// Removes the closed addresses that are not opened to the sandbox, and returns the evaluator's reasons.
pub(super) fn remove_closed(evaluator: &Evaluator, records: &mut Vec<Record>) -> Vec<Denial> {
    let mut denials = Vec::new();
    records.retain(|record| match &record.data {
        RData::A(address) => evaluator.address(address.0).map_err(|denial| denials.push(denial)).is_ok(),
        // IPv6 leaves no slot, so AAAA does no harm. An address in any other record is checked when it is dialled.
        _ => true,
    });
    denials
}

/// Returns the IPv4 addresses, and how long they are valid, in seconds.
pub(super) fn addresses_in(records: &[Record]) -> (Vec<Ipv4Addr>, u32) {
    let addresses = records.iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    });
    // The shortest TTL counts: an alias (CNAME) of the chain may change before the address does.
    (addresses.collect(), records.iter().map(|record| record.ttl).min().unwrap_or(0))
}
