//! Sends the one netlink message (rtnetlink(7)) that the agent needs, which moves a network card to another namespace:
//! no ioctl can do that. Called by `channel`.

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes of the message: header (16), `ifinfomsg` (16), one attribute (8).
const MESSAGE_LEN: usize = 40;
/// Bytes of the attribute: its length and type (4), and a 32-bit value (4).
const ATTRIBUTE_LEN: u16 = 8;
/// Byte offset of the error code in an answer: after its header.
const ERROR_AT: usize = 16;

/// Moves the card with this index from the calling thread's network namespace into another.
pub(super) fn move_to_namespace(index: u32, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    // Unconnected netlink sockets talk to the kernel.
    send(netlink.as_raw_fd(), &message(index, namespace), MsgFlags::empty())?;
    let mut answer = [0; 256];
    let len = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    acknowledged(&answer[..len])
}

fn message(index: u32, namespace: BorrowedFd<'_>) -> Vec<u8> {
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or_default();
    let mut bytes = Vec::with_capacity(MESSAGE_LEN);
    bytes.extend((MESSAGE_LEN as u32).to_ne_bytes());
    bytes.extend(libc::RTM_NEWLINK.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(1u32.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    // ifinfomsg: family and type unspecified, the index, nothing changed.
    bytes.extend([0; 4]);
    bytes.extend(index.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(ATTRIBUTE_LEN.to_ne_bytes());
    bytes.extend(libc::IFLA_NET_NS_FD.to_ne_bytes());
    bytes.extend(namespace.as_raw_fd().to_ne_bytes());
    bytes
}

/// Reads the acknowledgement, an NLMSG_ERROR whose code is 0 for "done" and a negative error number otherwise.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let code = answer.get(ERROR_AT..ERROR_AT + 4).and_then(|bytes| bytes.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}
