//! Opens the taps that a VMM is given as descriptors.

#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::{AsRawFd, OwnedFd};

/// The step at which opening a tap failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TapError {
    #[error("opening /dev/net/tun")]
    Open(#[source] Errno),
    #[error("{name} is too long for an interface name")]
    Name { name: String },
    #[error("attaching to {name}")]
    Attach {
        name: String,
        #[source]
        source: Errno,
    },
}

/// Attaches to an existing, persistent tap in the calling thread's network namespace.
pub(crate) fn open_tap(name: &str) -> Result<OwnedFd, TapError> {
    let tun = open("/dev/net/tun", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(TapError::Open)?;
    // SAFETY: ifreq is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte is left for the NUL that ends the name.
    if name.len() >= request.ifr_name.len() {
        return Err(TapError::Name { name: name.to_owned() });
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the ifreq it is given, which lives over the call.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result).map_err(|source| TapError::Attach { name: name.to_owned(), source })?;
    Ok(tun)
}
