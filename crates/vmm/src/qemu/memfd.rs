//! Files in memory that QEMU is given but cannot change.

use crate::error::VmmError;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::fd::OwnedFd;

/// Makes a memfd, has `fill` write its contents, and seals it against every change.
pub(super) fn sealed(name: &str, fill: impl FnOnce(&File) -> Result<(), VmmError>) -> Result<OwnedFd, VmmError> {
    let system = |step| move |errno: nix::errno::Errno| VmmError::System { step, source: errno.into() };
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let memfd = File::from(memfd_create(name, flags).map_err(system("making a memfd"))?);
    fill(&memfd)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    fcntl(&memfd, FcntlArg::F_ADD_SEALS(seals)).map_err(system("sealing the memfd"))?;
    Ok(memfd.into())
}
