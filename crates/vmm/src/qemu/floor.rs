//! Starts QEMU as one would by hand, with the same arguments and descriptors but no confinement; see [`crate::floor`].

#![allow(unsafe_code)]

use crate::confine::{PassedFd, TapFd, open_tap};
use crate::error::VmmError;
use leapbox_errors::chain;
use nix::sched::{CloneFlags, setns};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Descriptors are moved to this number or above it before they are put at the numbers that QEMU expects.
const PARKING: RawFd = 100;

/// Starts `program` in `netns` and returns its process id. Blocking. The caller reaps the process through a pidfd.
pub(super) fn spawn(
    program: &str,
    argv: &[String],
    netns: BorrowedFd<'_>,
    stderr: OwnedFd,
    taps: &[TapFd],
    passed: &[PassedFd<'_>],
) -> Result<i32, VmmError> {
    let work = || {
        setns(netns, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| VmmError::System { step: "entering the network namespace", source: errno.into() })?;
        let opened = taps.iter().map(|tap| open_tap(&tap.name)).collect::<Result<Vec<_>, _>>();
        let opened = opened.map_err(|error| VmmError::Launch { message: chain(&error) })?;
        let mut places: Vec<(RawFd, RawFd)> = passed.iter().map(|p| (p.fd.as_raw_fd(), p.number)).collect();
        places.extend(opened.iter().zip(taps).map(|(fd, tap)| (fd.as_raw_fd(), tap.fd)));
        let mut command = Command::new(program);
        command.args(&argv[1..]).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        // SAFETY: the closure calls fcntl and dup2 on plain numbers only; both may be called between fork and exec.
        unsafe { command.pre_exec(move || place_all(&places)) };
        let child = command.spawn();
        child.map(|c| c.id() as i32).map_err(|source| VmmError::System { step: "starting QEMU", source })
    };
    // On a thread that ends afterwards, because setns changes the thread's network namespace for good.
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(VmmError::Launch { message: "the launching thread panicked".to_owned() }))
}

/// Duplicates every descriptor to its number, in two rounds so that none is overwritten before it has been moved.
fn place_all(places: &[(RawFd, RawFd)]) -> std::io::Result<()> {
    // An array, because between fork and exec nothing may be allocated: another thread may have held the allocator's
    // lock at the fork. There are nine descriptors.
    let mut parked = [(0, 0); 16];
    for (slot, (from, to)) in parked.iter_mut().zip(places) {
        // SAFETY: fcntl on a plain number.
        let moved = unsafe { libc::fcntl(*from, libc::F_DUPFD_CLOEXEC, PARKING) };
        if moved < 0 {
            return Err(std::io::Error::last_os_error());
        }
        *slot = (moved, *to);
    }
    for (from, to) in &parked[..places.len()] {
        // SAFETY: dup2 on plain numbers.
        if unsafe { libc::dup2(*from, *to) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}
