//! A second host-wide table with a single rule: what comes from a slot and was not checked by the first one is dropped.
//! It makes `nft flush ruleset` fail closed until the first table is back.
//!
//! The table is owned by a netlink socket of this process (`NFT_TABLE_F_OWNER`, Linux 5.12). Other programs cannot
//! remove it, and a flush spares it. The kernel removes it when the socket is closed, so it cannot hold the first
//! table's rules itself: sandboxes outlive the server. nft(8) keeps no socket open, which is why the messages are
//! written here (`linux/netfilter/nf_tables.h`).

use crate::plan::{guard_name, veth_prefix};
use crate::rules::CHECKED_MARK;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// `NFNL_SUBSYS_NFTABLES` (10) with `NFT_MSG_NEWTABLE`, `NFT_MSG_DELTABLE`, `NFT_MSG_NEWCHAIN` and `NFT_MSG_NEWRULE`.
const NEW_TABLE: u16 = 10 << 8;
const DELETE_TABLE: u16 = 10 << 8 | 2;
const NEW_CHAIN: u16 = 10 << 8 | 3;
const NEW_RULE: u16 = 10 << 8 | 6;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`, around the messages of one transaction.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NLM_F_REQUEST`, `NLM_F_ACK` and `NLM_F_CREATE`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
/// `NLMSG_ERROR`, which is the acknowledgement too if its code is 0.
const ERROR: u16 = 2;
/// `NLA_F_NESTED`, in the type of an attribute that consists of attributes.
const NESTED: u16 = 1 << 15;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// Bytes of the two headers, `nlmsghdr` (16) and `nfgenmsg` (4).
const HEADERS: usize = 20;
const CHAIN: &str = "prerouting";
// Right after the first table's chain `prerouting`, whose priority is -300, and before its `prerouting_end`.
const PRIORITY: i32 = -299;

/// The guard, which is removed when this is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Guard {
    socket: OwnedFd,
    table: String,
}

impl Guard {
    /// Makes the guard in the calling thread's namespace. The first table must be there.
    ///
    /// # Errors
    /// What the kernel has refused: EOPNOTSUPP if it has no owned tables.
    pub(crate) fn set(instance: &str) -> io::Result<Self> {
        let table = guard_name(instance);
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let messages = [
            message(NEW_TABLE, CREATE, INET, &new_table(&table)),
            message(NEW_CHAIN, CREATE, INET, &new_chain(&table)),
            message(NEW_RULE, CREATE | ACK, INET, &drop_unchecked(&table, &veth_prefix(instance))),
        ];
        // The kernel works while `send` runs: its answers are there when it returns.
        send(socket.as_raw_fd(), &batch(&messages), MsgFlags::empty())?;
        acknowledged(&socket)?;
        Ok(Self { socket, table })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Closing the socket removes it too, but a child process that is just being started has the socket for another
        // moment.
        let delete = [message(DELETE_TABLE, 0, INET, &text(1, &self.table))];
        let _ = send(self.socket.as_raw_fd(), &batch(&delete), MsgFlags::empty());
    }
}

/// Reads the kernel's answers up to the last one that is there.
fn acknowledged(socket: &OwnedFd) -> io::Result<()> {
    let (mut buffer, mut acknowledged) = ([0; 4096], false);
    loop {
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => length,
            Err(Errno::EAGAIN) if acknowledged => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        for code in error_codes(&buffer[..length]) {
            if code != 0 {
                return Err(io::Error::from_raw_os_error(-code));
            }
            acknowledged = true;
        }
    }
}

/// Returns the codes of the errors and acknowledgements in one read: 0, or a negative errno.
fn error_codes(mut messages: &[u8]) -> impl Iterator<Item = i32> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(messages.get(..4)?.try_into().ok()?) as usize;
        let message = messages.get(..length).filter(|message| message.len() >= HEADERS)?;
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
        let code = i32::from_ne_bytes(message[16..HEADERS].try_into().ok()?);
        Some((u16::from_ne_bytes([message[4], message[5]]) == ERROR).then_some(code))
    })
    .flatten()
}

/// Returns one transaction of these messages.
fn batch(messages: &[Vec<u8>]) -> Vec<u8> {
    let [begin, end] = [BATCH_BEGIN, BATCH_END].map(|kind| message(kind, 0, 0, &[]));
    [begin, messages.concat(), end].concat()
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = (HEADERS + attributes.len()) as u32;
    // The last field of nfgenmsg is the subsystem in the messages around a batch, and is not read in the others.
    let resource = (NEW_TABLE >> 8).to_be_bytes();
    let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &(REQUEST | flags).to_ne_bytes(), &[0; 8]].concat();
    [&head[..], &[family, 0], &resource, attributes].concat()
}

/// `NFTA_TABLE_NAME` (1) and `NFTA_TABLE_FLAGS` (2), which are `NFT_TABLE_F_OWNER` (2).
fn new_table(table: &str) -> Vec<u8> {
    [text(1, table), number(2, 2)].concat()
}

/// `NFTA_CHAIN_TABLE` (1), `NFTA_CHAIN_NAME` (3), `NFTA_CHAIN_HOOK` (4: hook 0, which is prerouting, and priority),
/// `NFTA_CHAIN_POLICY` (5), which is `NF_ACCEPT` (1), and `NFTA_CHAIN_TYPE` (7).
fn new_chain(table: &str) -> Vec<u8> {
    let hook = nested(4, &[number(1, 0), attribute(2, &PRIORITY.to_be_bytes())]);
    [text(1, table), text(3, CHAIN), hook, number(5, 1), text(7, "filter")].concat()
}

/// `iifname "<prefix>*" meta mark & <bit> == 0 drop`: `NFTA_RULE_TABLE` (1), `NFTA_RULE_CHAIN` (2),
/// `NFTA_RULE_EXPRESSIONS` (4).
fn drop_unchecked(table: &str, prefix: &str) -> Vec<u8> {
    let masked = [number(1, 1), number(2, 1), number(3, 4), data(4, &CHECKED_MARK.to_ne_bytes()), data(5, &[0; 4])];
    let verdict = nested(2, &[nested(2, &[number(1, 0)])]);
    let expressions = [
        // Register 1 gets `NFT_META_IIFNAME` (6). A prefix is compared by comparing fewer bytes.
        expression("meta", &[number(2, 6), number(1, 1)]),
        equals(prefix.as_bytes()),
        // Register 1 gets `NFT_META_MARK` (3), of which the mask leaves the bit.
        expression("meta", &[number(2, 3), number(1, 1)]),
        expression("bitwise", &masked),
        equals(&[0; 4]),
        // The verdict's register (0) gets `NF_DROP` (0).
        expression("immediate", &[number(1, 0), verdict]),
    ];
    [text(1, table), text(2, CHAIN), nested(4, &expressions)].concat()
}

/// Goes on if register 1 (`NFTA_CMP_SREG`) is equal (`NFTA_CMP_OP` 0) to the bytes (`NFTA_CMP_DATA`).
fn equals(bytes: &[u8]) -> Vec<u8> {
    expression("cmp", &[number(1, 1), number(2, 0), data(3, bytes)])
}

/// An element of a list of expressions: `NFTA_EXPR_NAME` (1) and `NFTA_EXPR_DATA` (2) in `NFTA_LIST_ELEM` (1).
fn expression(name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, parts)])
}

/// Bytes as `NFTA_DATA_VALUE` (1).
fn data(kind: u16, bytes: &[u8]) -> Vec<u8> {
    nested(kind, &[attribute(1, bytes)])
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &parts.concat())
}

/// A number, which nftables' attributes have in the network's byte order.
fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = [&(length as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, code: i32) -> Vec<u8> {
        let mut answer = message(kind, 0, 0, &[0; 16]);
        answer[16..20].copy_from_slice(&code.to_ne_bytes());
        answer
    }

    #[test]
    fn answers_are_told_apart_from_other_messages_and_read_as_far_as_they_go() {
        let read = [answer(ERROR, 0), answer(NEW_TABLE, 7), answer(ERROR, -95)].concat();
        assert_eq!(error_codes(&read).collect::<Vec<_>>(), [0, -95]);
        for length in 0..read.len() {
            assert!(error_codes(&read[..length]).count() <= 2);
        }
    }

    #[test]
    fn a_batch_is_whole_messages_of_the_length_that_each_says() {
        let mut left = batch(&[message(NEW_TABLE, CREATE, INET, &new_table("leapbox_7e57_guard"))]);
        for kind in [BATCH_BEGIN, NEW_TABLE, BATCH_END] {
            let length = u32::from_ne_bytes([left[0], left[1], left[2], left[3]]) as usize;
            assert_eq!((u16::from_ne_bytes([left[4], left[5]]), length % 4), (kind, 0));
            left.drain(..length);
        }
        assert!(left.is_empty());
    }
}
