//! Processes, held by pidfd so that they are never confused with another that gets their number, and awaited.

#![allow(unsafe_code)]

use crate::error::{ExitReason, VmmError};
use leapbox_errors::FileError;
use nix::errno::Errno;
use std::future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Reads the host's boot id. It is part of every record, because process ids and start times begin anew with a boot.
pub fn host_boot_id() -> Result<String, VmmError> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .map_err(|source| VmmError::System { step: "reading the host's boot id", source })
}

/// Maps the error of an operation on process `pid`: [`VmmError::NotAlive`] if there is no such process, otherwise the
/// error of `step`.
pub(crate) fn not_alive(pid: i32, step: &'static str, source: io::Error) -> VmmError {
    match source.raw_os_error() {
        // ENOENT is what a path below /proc gives for a process that has been reaped.
        Some(libc::ESRCH | libc::ENOENT) => VmmError::NotAlive { pid },
        _ => VmmError::System { step, source },
    }
}

/// Whether an operation on a VMM failed because this server or the host is short of descriptors or memory. Such an
/// error says nothing of the VMM.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    // ENOSPC is what epoll gives beyond its limit of watched descriptors.
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC))
}

/// A process that was alive when it was opened. It may end at any time; the pidfd never means another one.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    start_ticks: u64,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Opens a pidfd of process `pid`, which must be alive or not yet reaped. The error is [`VmmError::NotAlive`] only
    /// if there is no such process.
    pub fn open(pid: i32) -> Result<Self, VmmError> {
        let pidfd = open_pidfd(pid)?;
        // Read once the pidfd is held. If the number changes hands in between, the pidfd is of a process that has
        // ended: the new one is not taken for it, whatever its start time.
        let start_ticks = start_ticks(pid)?;
        // SAFETY: the descriptor is owned by the AsyncFd and stays open, and the same, as long as that lives.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
            .map_err(|source| VmmError::System { step: "watching the process", source: source.into() })?;
        Ok(Self { pid, start_ticks, pidfd })
    }

    /// Opens a process that was recorded earlier; an error if the number belongs to another one by now.
    pub fn open_recorded(pid: i32, start_ticks: u64) -> Result<Self, VmmError> {
        let process = Self::open(pid)?;
        if process.start_ticks == start_ticks { Ok(process) } else { Err(VmmError::NotAlive { pid }) }
    }

    /// Its number in the host's pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its start in clock ticks since the host's boot.
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Whether it is alive at this moment. If so, anything that was opened by its number before is its own.
    pub fn is_alive(&self) -> bool {
        !has_ended(self.pidfd.get_ref())
    }

    /// An error if it has ended.
    pub(crate) fn check_alive(&self) -> Result<(), VmmError> {
        if self.is_alive() { Ok(()) } else { Err(VmmError::NotAlive { pid: self.pid }) }
    }

    /// Sends SIGKILL, without waiting for its effect.
    pub fn kill(&self) {
        // SAFETY: pidfd_send_signal with a valid descriptor, no siginfo and no flags. It fails only for a process that
        // has ended, which is the aim, so the result does not matter.
        unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), libc::SIGKILL, 0, 0);
        }
    }

    /// Waits until it has ended, and reaps it if it is a child of this process.
    pub async fn exited(&self) -> ExitReason {
        // The descriptor becomes readable when the process ends and stays so.
        if self.pidfd.readable().await.is_err() {
            // The runtime shuts down, which is not the end of the process.
            future::pending::<()>().await;
        }
        self.reap()
    }

    fn reap(&self) -> ExitReason {
        // SAFETY: siginfo_t is plain data for which all zeroes is a value; waitid fills it in.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let id = self.pidfd.as_raw_fd() as libc::id_t;
        // SAFETY: `info` lives over the call.
        let result = unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED | libc::WNOHANG) };
        // SAFETY: reading the pid and status of a siginfo_t that waitid has filled in.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        // ECHILD: an adopted VMM has been a child of init since its server ended, or another task has reaped the
        // process already.
        if result != 0 || pid == 0 {
            return ExitReason::Gone;
        }
        match info.si_code {
            libc::CLD_EXITED => ExitReason::Exited { code: status, message: String::new() },
            _ => ExitReason::Signalled { signal: status },
        }
    }
}

/// Whether the process that was recorded with these numbers still runs. An error if that cannot be found out, which is
/// [`VmmError::NotAlive`] if there is no process of that number.
pub(crate) fn still_runs(pid: i32, recorded_ticks: u64) -> Result<bool, VmmError> {
    let pidfd = open_pidfd(pid)?;
    Ok(start_ticks(pid)? == recorded_ticks && !has_ended(&pidfd))
}

fn open_pidfd(pid: i32) -> Result<OwnedFd, VmmError> {
    // SAFETY: pidfd_open takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(fd).map_err(|errno| match errno {
        // No process has this number, but a thread of another one.
        Errno::EINVAL => VmmError::NotAlive { pid },
        errno => not_alive(pid, "opening a pidfd", errno.into()),
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    // A pidfd becomes readable when its process ends. Unlike kill(pid, 0), that also holds for a zombie.
    let mut ended = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: one pollfd that lives over the call, which does not wait.
        match unsafe { libc::poll(&raw mut ended, 1, 0) } {
            // A signal to this server came in between, and nothing is known yet.
            -1 if Errno::last() == Errno::EINTR => {}
            ready => return ready > 0,
        }
    }
}

/// Reads the start time of a process: field 22 of /proc/PID/stat (proc_pid_stat(5)).
fn start_ticks(pid: i32) -> Result<u64, VmmError> {
    let step = "reading its start time";
    let stat = stat_after_name(Path::new(&format!("/proc/{pid}/stat")));
    let stat = stat.map_err(|source| not_alive(pid, step, source))?;
    let ticks = stat.split_ascii_whitespace().nth(19).and_then(|field| field.parse().ok());
    ticks.ok_or_else(|| VmmError::System { step, source: io::ErrorKind::InvalidData.into() })
}

/// Reads the file `stat` of a process or a thread (proc_pid_stat(5)) and returns the fields after the name. The first
/// of them is the state.
pub(crate) fn stat_after_name(path: &Path) -> io::Result<String> {
    // A program can put any bytes into its name, also such as are no UTF-8.
    let stat = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
    // The name is in parentheses, and it can have spaces and parentheses itself. No field after it has any, so the last
    // one ends the name.
    let (_, fields) = stat.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?;
    Ok(fields.to_owned())
}

/// Makes this process the parent of its orphaned descendants. Every VMM is one, because its launcher or jailer ends
/// before it; as their parent the server learns their exit status. To be called once, at the start of the server.
pub fn become_subreaper() -> Result<(), VmmError> {
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|errno| VmmError::System { step: "becoming the child subreaper of the VMMs", source: errno.into() })
}

/// Bytes of memory that process `pid` costs beyond the pages it shares: those it has written, and its program, if that
/// is its own copy of the file (a jail's). Clean pages of other files belong to the page cache and are shared by all
/// clones, whoever maps them right now.
pub fn private_bytes(pid: i32) -> Result<u64, VmmError> {
    let path = std::path::PathBuf::from(format!("/proc/{pid}/smaps"));
    let read = std::fs::read_to_string(&path);
    let text = read.map_err(FileError::of("reading the memory use", path))?;
    let program = std::fs::metadata(format!("/proc/{pid}/exe")).map_or(0, |meta| meta.ino());
    Ok(own_kib(&text, program) * 1024)
}

/// Adds up a process's own memory from /proc/PID/smaps (proc_pid_smaps(5)), in KiB. `program` is its executable's
/// inode.
fn own_kib(smaps: &str, program: u64) -> u64 {
    let mut in_program = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else { continue };
        if !first.ends_with(':') {
            // 00400000-00452000 r-xp 00000000 08:02 173521  /usr/bin/dbus-daemon
            let inode = words.nth(2).and_then(|inode| inode.parse::<u64>().ok());
            in_program = inode == Some(program);
            continue;
        }
        // Anonymous pages are private pages, too, so each mapping counts by one or the other, not by both.
        let counts = match first {
            "Anonymous:" => !in_program,
            "Private_Clean:" | "Private_Dirty:" => in_program,
            // A page that was swapped out is in no other line.
            "Swap:" => true,
            _ => false,
        };
        if counts {
            sum += second.parse::<u64>().unwrap_or(0);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reaped by the code under test, as a VMM is.
    #[allow(clippy::zombie_processes)]
    fn start(program: &str, arguments: &[&str]) -> Process {
        let child = std::process::Command::new(program).args(arguments).spawn().expect("it runs");
        Process::open(child.id() as i32).expect("alive")
    }

    #[tokio::test]
    async fn a_child_that_exits_is_told_with_its_code() {
        let process = start("sh", &["-c", "sleep 0.1; exit 7"]);
        assert_eq!(process.exited().await, ExitReason::Exited { code: 7, message: String::new() });
    }

    #[tokio::test]
    async fn a_killed_child_is_told_with_its_signal() {
        let process = start("sleep", &["60"]);
        assert!(process.is_alive());
        process.kill();
        assert_eq!(process.exited().await, ExitReason::Signalled { signal: 9 });
        assert!(!process.is_alive());
    }

    #[tokio::test]
    async fn a_reused_number_is_not_the_recorded_process() {
        let own = std::process::id() as i32;
        let process = Process::open(own).expect("we are alive");
        assert!(Process::open_recorded(own, process.start_ticks()).is_ok());
        assert!(matches!(Process::open_recorded(own, process.start_ticks() + 1), Err(VmmError::NotAlive { .. })));
    }

    #[test]
    fn only_a_missing_process_is_a_death() {
        let failed = |errno| not_alive(7, "looking", io::Error::from_raw_os_error(errno));
        assert!(failed(libc::ESRCH).is_death() && failed(libc::ENOENT).is_death());
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EACCES, libc::EPERM] {
            assert!(!failed(errno).is_death(), "{errno}");
        }
    }

    #[test]
    fn the_number_of_a_thread_is_no_process() {
        let thread = std::thread::spawn(|| {
            let id = nix::unistd::gettid().as_raw();
            Process::open(id).err().map(|error| error.is_death())
        });
        assert_eq!(thread.join().expect("no panic"), Some(true));
    }

    #[test]
    fn clean_pages_of_files_are_nobodys_own_but_for_a_program_of_its_own() {
        let smaps = "00400000-00452000 r-xp 00000000 08:02 7      /firecracker\nPrivate_Clean:   100 kB\n\
                     Private_Dirty:   20 kB\nAnonymous:   20 kB\nSwap:   0 kB\nVmFlags: rd\n\
                     7f000000-7f100000 rw-p 00000000 08:02 9      /memory\nPrivate_Clean:   4000 kB\n\
                     Private_Dirty:   300 kB\nAnonymous:   300 kB\nSwap:   4 kB\n\
                     7f200000-7f300000 rw-p 00000000 00:00 0\nPrivate_Dirty:   50 kB\nAnonymous:   50 kB\n";
        assert_eq!(own_kib(smaps, 7), 120 + 304 + 50);
        assert_eq!(own_kib(smaps, 8), 20 + 304 + 50);
    }
}
