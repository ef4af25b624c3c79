//! Makes taps, with three ioctls each (`linux/if_tun.h`). A tap is persistent, so that the VMM can open it by name. It
//! belongs to the VMM's uid, so that this VMM needs no capability to open it and no other VMM can.

#![allow(unsafe_code)]

use crate::error::NetworkError;
use nix::libc;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

pub(crate) const TUN_DEVICE: &str = "/dev/net/tun";

#[allow(missing_docs)]
mod ioctl {
    use nix::libc;
    nix::ioctl_write_ptr_bad!(set_iff, nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()), libc::ifreq);
    nix::ioctl_write_int!(set_persist, b'T', 203);
    nix::ioctl_write_int!(set_owner, b'T', 204);
}

/// Makes a persistent tap in the calling thread's network namespace, with which it ends.
pub(crate) fn create(tap: &'static str, uid: u32) -> Result<(), NetworkError> {
    let failed = |step| move |source: io::Error| NetworkError::Tap { tap, step, source };
    let device = OpenOptions::new().read(true).write(true).open(TUN_DEVICE).map_err(failed("open /dev/net/tun"))?;
    let request = request(tap);
    // SAFETY: the descriptor is open, and `request` is a whole ifreq that lives through the call.
    unsafe { ioctl::set_iff(device.as_raw_fd(), &request) }.map_err(io::Error::from).map_err(failed("TUNSETIFF"))?;
    // SAFETY: takes an integer only.
    unsafe { ioctl::set_owner(device.as_raw_fd(), u64::from(uid)) }
        .map_err(io::Error::from)
        .map_err(failed("TUNSETOWNER"))?;
    // SAFETY: takes an integer only.
    unsafe { ioctl::set_persist(device.as_raw_fd(), 1) }.map_err(io::Error::from).map_err(failed("TUNSETPERSIST"))?;
    Ok(())
}

fn request(tap: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero and ends the name.
    let longest = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..longest].iter_mut().zip(tap.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    request
}
