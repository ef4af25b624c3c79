//! The addresses in an answer: which of them a sandbox may see, and for how long they hold.

use hickory_resolver::proto::rr::{RData, Record};
use leapbox_egress_policy::{Denial, Evaluator};
use std::net::Ipv4Addr;

/// Removes the addresses an evaluator denies; tells why.
pub(super) fn remove_inside(evaluator: &Evaluator, records: &mut Vec<Record>) -> Vec<Denial> {
    let mut denials = Vec::new();
    records.retain(|record| match &record.data {
        RData::A(address) => evaluator.address(address.0).map_err(|denial| denials.push(denial)).is_ok(),
        _ => true,
    });
    denials
}

/// The IPv4 addresses, and for how long they hold, in seconds.
pub(super) fn addresses_in(records: &[Record]) -> (Vec<Ipv4Addr>, u32) {
    let addresses = records.iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    });
    (addresses.collect(), records.iter().map(|record| record.ttl).min().unwrap_or(0))
}
