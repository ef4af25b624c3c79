//! Doing something as the image's user, on one thread.
//!
//! The agent is root, and what it reads and writes for the API must follow the image's user's rights: a file only root
//! may read answers "permission denied", a new file belongs to the user. The effective ids of the calling thread alone
//! are switched, with raw system calls (the C library's functions would switch every thread). Leaving uid 0 empties the
//! thread's effective capabilities, coming back restores them.

use leapbox_guest_protocol::ImageConfig;
use std::io;
use std::time::Duration;

/// Ids of the image's user.
#[derive(Debug, Clone)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Leaves an id unchanged in `setresuid` and `setresgid`.
const UNCHANGED: libc::c_long = -1;

impl User {
    /// The user an image's processes run as.
    pub fn of_image(image: &ImageConfig) -> Self {
        Self { uid: image.uid, gid: image.gid, groups: image.groups.clone() }
    }

    /// Runs `work` with this user's rights. Fails only if the kernel refuses the switch.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> io::Result<R> {
        if self.uid == 0 {
            return Ok(work());
        }
        let back = BackToRoot;
        set_groups(&self.groups)?;
        set_effective(libc::SYS_setresgid, self.gid)?;
        set_effective(libc::SYS_setresuid, self.uid)?;
        let result = work();
        drop(back);
        Ok(result)
    }
}

/// Becomes root again when dropped, after a panic too.
struct BackToRoot;

impl Drop for BackToRoot {
    fn drop(&mut self) {
        // The saved id is 0, so only a lack of kernel memory can refuse this. The thread serves others next and must not
        // go on half-switched.
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

/// `setresuid` or `setresgid` of the calling thread, effective id only.
fn set_effective(call: libc::c_long, id: u32) -> io::Result<()> {
    // SAFETY: both calls take three integers and touch no memory.
    let result = unsafe { libc::syscall(call, UNCHANGED, libc::c_long::from(id), UNCHANGED) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
