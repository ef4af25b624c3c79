//! Reads which packets the kernel refuses in a slot (UDP, ICMP and others that no proxy sees), and writes a denial for
//! each to the sandbox's journal.
//!
//! The rule `log group` of the slot's chain `refused` passes the first bytes of refused packets, at most 20 packets a
//! second, to the process that has bound that netfilter log group in the same namespace
//! (`linux/netfilter/nfnetlink_log.h`). The kernel writes these messages, but their payload comes from the guest and is
//! read as hostile.

use crate::rules::LOG_GROUP;
use leapbox_egress::Journal;
use leapbox_egress_policy::{Denial, Evaluator, Policy};
use leapbox_errors::chain;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `NFNL_SUBSYS_ULOG` (4) with `NFULNL_MSG_PACKET` (0) and `NFULNL_MSG_CONFIG` (1).
const MSG_PACKET: u16 = 4 << 8;
const MSG_CONFIG: u16 = 4 << 8 | 1;
const NLM_F_REQUEST: u16 = 1;
/// Attributes of a configuration message: the command, and how much of a packet is copied.
const CFG_CMD: u16 = 1;
const CFG_MODE: u16 = 2;
const CMD_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
/// The attribute with the packet's bytes (`NFULA_PAYLOAD`).
const PAYLOAD: u16 = 9;
/// Bytes of the two headers, `nlmsghdr` (16) and `nfgenmsg` (4).
const HEADERS: usize = 20;
// Bytes of each packet: enough for an IPv4 header with all options (60) and the ports (4).
const COPIED: u32 = 64;
/// Bytes of one read, which may hold several messages.
const BUFFER: usize = 64 << 10;

/// Opens the netfilter log of the calling thread's namespace.
pub(crate) fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    send(fd.as_raw_fd(), &configuration(), MsgFlags::empty())?;
    Ok(fd)
}

/// Returns the message that binds the group and has the beginning of each packet copied.
fn configuration() -> Vec<u8> {
    // Netlink's own fields are in the host's byte order, those of nfnetlink_log in the network's.
    let attributes = [
        [&5u16.to_ne_bytes()[..], &CFG_CMD.to_ne_bytes(), &[CMD_BIND, 0, 0, 0]].concat(),
        [&10u16.to_ne_bytes()[..], &CFG_MODE.to_ne_bytes(), &COPIED.to_be_bytes(), &[COPY_PACKET, 0, 0, 0]].concat(),
    ]
    .concat();
    let length = (HEADERS + attributes.len()) as u32;
    [
        &length.to_ne_bytes()[..],
        &MSG_CONFIG.to_ne_bytes(),
        &NLM_F_REQUEST.to_ne_bytes(),
        &[0; 8],
        &[0, 0],
        &LOG_GROUP.to_be_bytes(),
        &attributes,
    ]
    .concat()
}

/// A slot's open log.
pub(crate) struct Refusals(AsyncFd<OwnedFd>);

impl Refusals {
    /// Registers the log with the current runtime.
    #[allow(unsafe_code)]
    pub(crate) fn new(log: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by the AsyncFd and stays open, and the same, as long as that lives.
        let log = unsafe { AsyncFd::register_with_interest(log, Interest::READABLE) };
        Ok(Self(log.map_err(io::Error::from)?))
    }

    /// Writes the refused packets that the kernel reports to the journal, until dropped.
    pub(crate) async fn report(self, evaluator: Arc<Evaluator>, journal: Arc<Journal>) {
        let mut buffer = vec![0; BUFFER];
        let deny_all = *evaluator.policy() == Policy::DenyAll;
        loop {
            let read = self
                .0
                .async_io(Interest::READABLE, |fd| Ok(recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?));
            match read.await {
                Ok(length) => packets(&buffer[..length]).filter_map(denial_of).for_each(|denial| {
                    // Under deny-all the packet's destination is not the reason.
                    journal.deny(&if deny_all { Denial::DenyAll } else { denial });
                }),
                // The socket's buffer was full and messages were lost (ENOBUFS). The metrics lack these packets, as
                // they lack those beyond the kernel's rate.
                Err(error) => tracing::trace!(error = %chain(&error), "some refused packets are not counted"),
            }
        }
    }
}

/// Returns the packets' bytes in the messages of one read.
fn packets(mut messages: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(messages.get(..4)?.try_into().ok()?) as usize;
        let message = messages.get(..length).filter(|message| message.len() >= HEADERS)?;
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        Some(if kind == MSG_PACKET { attribute(&message[HEADERS..], PAYLOAD) } else { None })
    })
    .flatten()
}

fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// Returns the denial of an IPv4 packet, by its destination, or `None` if its header is incomplete.
fn denial_of(packet: &[u8]) -> Option<Denial> {
    let header = packet.get(..20)?;
    let address = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    let ports = packet.get(usize::from(header[0] & 0x0f) * 4..).unwrap_or_default();
    let port = ports.get(2..4).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let protocol = match header[9] {
        1 => "ICMP",
        6 => "TCP",
        17 => "UDP",
        _ => "a packet",
    };
    let port = port.filter(|_| matches!(header[9], 6 | 17));
    Some(Denial::Packet { protocol, address, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut attributes = [&[8, 0, 1, 0][..], &[0; 4]].concat();
        attributes.extend(((payload.len() + 4) as u16).to_ne_bytes());
        attributes.extend(PAYLOAD.to_ne_bytes());
        attributes.extend(payload);
        attributes.resize(attributes.len().next_multiple_of(4), 0);
        let length = ((HEADERS + attributes.len()) as u32).to_ne_bytes();
        [&length[..], &kind.to_ne_bytes(), &[0; 14], &attributes].concat()
    }

    fn udp(to: [u8; 4], port: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 254, 254, 2];
        packet.extend(to);
        packet.extend([0x9c, 0x40]);
        packet.extend(port.to_be_bytes());
        packet.extend([0, 8, 0, 0]);
        packet
    }

    #[test]
    fn a_refused_packet_is_told_by_where_it_was_going() {
        let messages = [message(MSG_PACKET, &udp([1, 1, 1, 1], 53)), message(3, &[]), message(MSG_PACKET, &[0x45; 3])];
        let told: Vec<String> =
            packets(&messages.concat()).filter_map(denial_of).map(|denial| denial.to_string()).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("UDP") && told[0].contains("1.1.1.1") && told[0].contains("53"), "{told:?}");
    }

    #[test]
    fn a_message_cut_anywhere_is_read_as_far_as_it_goes() {
        let whole = message(MSG_PACKET, &udp([9, 9, 9, 9], 443));
        for length in 0..whole.len() {
            assert!(packets(&whole[..length]).filter_map(denial_of).count() <= 1);
        }
    }
}
