//! Frames as a hostile guest writes them.

use leapbox_guest_protocol::net;
use std::net::{Ipv4Addr, Ipv6Addr};

pub const GUEST_MAC: [u8; 6] = net::WORKLOAD_GUEST_MAC;
pub const HOST_MAC: [u8; 6] = net::WORKLOAD_HOST_MAC;
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const ARP: u16 = 0x0806;

/// An Ethernet frame.
pub fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes()[..], payload].concat()
}

/// The same frame with an 802.1Q tag.
pub fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    [&frame[..12], &0x8100u16.to_be_bytes()[..], &vlan.to_be_bytes()[..], &frame[12..]].concat()
}

/// A UDP packet in IPv4. The UDP checksum is left out, which IPv4 allows.
pub fn udp(from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    udp_from_port(40000, from, to, port, payload)
}

/// The same from a port of choice.
pub fn udp_from_port(source: u16, from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let udp =
        [&source.to_be_bytes()[..], &port.to_be_bytes()[..], &length.to_be_bytes()[..], &[0, 0], payload].concat();
    ipv4(from, to, 17, &[], &udp)
}

/// A UDP packet in IPv6, which has no checksum but UDP's.
pub fn udp_v6(from: Ipv6Addr, to: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut udp = [&40000u16.to_be_bytes()[..], &port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat();
    let addresses = [from.octets(), to.octets()].concat();
    let sum = checksum(&[&addresses[..], &[0, 0], &length.to_be_bytes(), &[0, 0, 0, 17], &udp].concat());
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[17, 64], &addresses, &udp].concat()
}

/// An ICMP echo request, without its IPv4 header.
pub fn echo_request() -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
    let sum = checksum(&icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    icmp
}

/// An IPv4 packet, with options padded to whole words.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let header_length = 20 + options.len();
    let total = (header_length + payload.len()) as u16;
    let mut header = vec![0x40 | (header_length / 4) as u8, 0];
    header.extend_from_slice(&total.to_be_bytes());
    header.extend_from_slice(&[0, 1, 0, 0, 64, protocol, 0, 0]);
    header.extend_from_slice(&from.octets());
    header.extend_from_slice(&to.octets());
    header.extend_from_slice(options);
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    header.extend_from_slice(payload);
    header
}

/// An ARP request (1) or reply (2) that claims `ip` for `mac`.
pub fn arp(operation: u16, mac: [u8; 6], ip: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4];
    [&fixed[..], &operation.to_be_bytes()[..], &mac[..], &ip.octets()[..], &[0; 6][..], &target.octets()[..]].concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
