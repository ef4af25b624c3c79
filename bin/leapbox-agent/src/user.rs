//! Runs file operations with the rights of the image's user, on the calling thread alone. Called by `files`.
//!
//! The agent is root, and what it reads and writes for the API must follow the rights of the image's user: reading a
//! file that only root may read is "permission denied", and a new file belongs to the user. Only the calling thread's
//! effective ids are switched, with raw system calls, because the C library's functions would switch every thread.
//! Leaving uid 0 empties the thread's effective capabilities, and returning to it restores them (capabilities(7)).

use leapbox_guest_protocol::ImageConfig;
use std::io;
use std::time::Duration;

/// Numeric ids of the image's user, as [`ImageConfig`] has them.
#[derive(Debug, Clone)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Gids of the supplementary groups.
    pub groups: Vec<u32>,
}

/// The argument that leaves an id unchanged in setresuid(2) and setresgid(2).
const UNCHANGED: libc::c_long = -1;

impl User {
    /// Takes the ids out of an image's configuration.
    pub fn of_image(image: &ImageConfig) -> Self {
        Self { uid: image.uid, gid: image.gid, groups: image.groups.clone() }
    }

    /// Runs `work` with this user's rights. Fails only if the kernel refuses the switch.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> io::Result<R> {
        if self.uid == 0 {
            return Ok(work());
        }
        // Made first, so that a switch that fails half way is undone as well.
        let root = RestoreRoot;
        // The uid last: without uid 0 the thread may not change the other two.
        set_groups(&self.groups)?;
        set_effective(libc::SYS_setresgid, self.gid)?;
        set_effective(libc::SYS_setresuid, self.uid)?;
        let result = work();
        drop(root);
        Ok(result)
    }
}

/// Switches the calling thread back to root when dropped, also after a panic in the operation.
struct RestoreRoot;

impl Drop for RestoreRoot {
    fn drop(&mut self) {
        // The saved uid is still 0, so only a lack of kernel memory can refuse this. The thread serves other
        // connections next, and must not do that with the rights of another user.
        while set_effective(libc::SYS_setresuid, 0)
            .and_then(|()| set_effective(libc::SYS_setresgid, 0))
            .and_then(|()| set_groups(&[]))
            .is_err()
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length describe a live slice of gid_t (u32), which the kernel only reads.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the effective id alone of the calling thread, by `setresuid` or `setresgid`.
fn set_effective(call: libc::c_long, id: u32) -> io::Result<()> {
    // SAFETY: both calls take three integers and touch no memory.
    let result = unsafe { libc::syscall(call, UNCHANGED, libc::c_long::from(id), UNCHANGED) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
