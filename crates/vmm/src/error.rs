//! The errors of this crate, and the reasons for which a VMM ended.

use crate::shape::Shape;
use leapbox_errors::FileError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// The reason for which a VMM has ended. `lifecycle` stores its text as the sandbox's `state_reason`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// The process exited by itself.
    Exited {
        code: i32,
        /// The end of what the process has logged, raw and possibly empty.
        message: String,
    },
    /// A signal ended the process.
    Signalled { signal: i32 },
    /// The process used more memory than its control group allows, and the kernel killed it.
    OutOfMemory,
    /// The guest shut down, rebooted or panicked.
    GuestShutdown {
        /// The end of the guest's console, raw: the guest may have written anything.
        console: String,
    },
    /// The process did not answer its control socket any more and was killed for it.
    Hung {
        /// Seconds since its last answer.
        seconds: u64,
    },
    /// The process has ended, and its status is unknown because a previous server process had started it.
    Gone,
}

impl ExitReason {
    /// The variant as one stable word, for the log's field `exit`.
    pub fn kind(&self) -> &'static str {
        match self {
            ExitReason::Exited { .. } => "exited",
            ExitReason::Signalled { .. } => "signalled",
            ExitReason::OutOfMemory => "out_of_memory",
            ExitReason::GuestShutdown { .. } => "guest_shutdown",
            ExitReason::Hung { .. } => "hung",
            ExitReason::Gone => "gone",
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitReason::Exited { code, message } if message.is_empty() => {
                write!(f, "the virtual machine monitor exited with code {code}")
            }
            ExitReason::Exited { code, message } => {
                write!(f, "the virtual machine monitor exited with code {code}: {}", plain(message))
            }
            ExitReason::Signalled { signal } => {
                write!(f, "the virtual machine monitor was killed by signal {signal}")
            }
            ExitReason::OutOfMemory => {
                f.write_str("the virtual machine monitor used more memory than its control group allows")
            }
            ExitReason::GuestShutdown { console } => match panic_of(console) {
                // A panic as well, but one that the sandbox's owner can avoid with more memory.
                Some(panic) if panic.contains(DEADLOCK) => f.write_str("the guest ran out of memory"),
                Some(panic) => write!(f, "the guest's kernel panicked: {panic}"),
                None => f.write_str("the guest shut down"),
            },
            ExitReason::Hung { seconds } => {
                write!(f, "the virtual machine monitor did not answer for {seconds} s and was killed")
            }
            ExitReason::Gone => f.write_str("the virtual machine monitor is gone"),
        }
    }
}

/// The guest kernel's panic message begins with this (kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing: ";
/// The panic message has this in it when no process is left that the kernel could kill for memory (mm/oom_kill.c).
const DEADLOCK: &str = "deadlocked on memory";
/// The most characters (bytes, if it is not ASCII) that an error repeats of a guest's or a VMM's text.
pub(crate) const PLAIN_MAX: usize = 200;

/// The beginning of a text that a guest or its VMM has written, as one line of printable ASCII.
pub(crate) fn plain(text: &str) -> String {
    // The text ends in the log, in the database and in API answers. A hostile one must not forge lines of the log, send
    // a terminal escape sequences, or fill any of them.
    let one_line = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
    one_line.filter(|c| c.is_ascii_graphic() || *c == ' ').take(PLAIN_MAX).collect()
}

/// The message of the last kernel panic on a console. A guest can print such a line itself; it then misreports nothing
/// but its own end.
fn panic_of(console: &str) -> Option<String> {
    let (_, after) = console.rsplit_once(PANIC)?;
    after.lines().next().map(plain)
}

/// An operation of a driver that failed. The cause is the error's source and not repeated in its text.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// Something the driver needs is not on this host.
    #[error("{what} not found; {hint}")]
    Missing { what: String, hint: String },
    /// An operation on a file or directory failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// An operating system call failed.
    #[error("{step}")]
    System {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// `leapbox confine` or the jailer could not start the VMM in its confinement.
    #[error("launching the virtual machine monitor failed: {message}")]
    Launch { message: String },
    /// The VMM ended while it was being set up.
    #[error("the virtual machine monitor died while {stage}: {reason}")]
    Died { stage: &'static str, reason: ExitReason },
    /// The VMM refused a control command.
    #[error("the virtual machine monitor refused {command}: {message}")]
    Refused { command: String, message: String },
    /// The VMM did not answer in time.
    #[error("the virtual machine monitor did not answer {command} within {seconds} s")]
    Hung { command: String, seconds: u64 },
    /// The VMM's answer is malformed, or its control connection broke.
    #[error("the virtual machine monitor's answer to {command} cannot be read: {message}")]
    Protocol { command: String, message: String },
    /// The memory of a VMM's process could not be read or written.
    #[error("{step} of process {pid}")]
    Memory {
        step: &'static str,
        pid: i32,
        #[source]
        source: std::io::Error,
    },
    /// A process has not mapped its RAM as a clone does: all of its file, each byte once, copy-on-write.
    #[error("process {pid} has not mapped all of its guest's memory once and copy-on-write: {found}")]
    Mapping { pid: i32, found: String },
    /// The changes to a base's memory could not be read from their archive.
    #[error("reading a machine's changes to its base's memory")]
    Changes {
        #[source]
        source: std::io::Error,
    },
    /// A run of changes does not fit the base's memory.
    #[error("the change of {length} bytes at {offset:#x} does not fit the base's memory: {fault}")]
    Change { offset: u64, length: usize, fault: &'static str },
    /// A device state is empty, or larger than any machine's.
    #[error("not a machine's device state ({found} bytes)")]
    StateLength { found: u64 },
    /// The file of a machine's inherited pages is damaged.
    #[error("{path} is damaged: nothing else lists the pages that the machine was restored with")]
    InheritedPages { path: PathBuf },
    /// A file could not be copied: a base's memory that is to be overlaid, or an artifact to the jails' file system.
    #[error("copying {path}")]
    CopyMemory {
        path: PathBuf,
        #[source]
        source: leapbox_storage::StorageError,
    },
    /// A stored working set is damaged, or was made for another size or by another version.
    #[error("{path} is not a working set of this memory: it is damaged, or of another size or version")]
    WorkingSet { path: PathBuf },
    /// The machine's process has ended, or its number belongs to another process.
    #[error("the machine's process {pid} is gone")]
    NotAlive { pid: i32 },
    /// A directory of the driver's own cannot be used.
    #[error("preparing {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: leapbox_storage::PrivateError,
    },
    /// The record is of a machine that another driver started.
    #[error("the machine runs under {recorded} and this server under {own}: start it with driver = \"{recorded}\"")]
    OtherDriver { recorded: String, own: &'static str },
    /// The size is outside what every driver supports.
    #[error("invalid machine size {shape}: it must have 1 to 8 vCPUs and 512 to 8192 MiB, an even number")]
    Shape { shape: Shape },
    /// The file of a snapshot's memory is not as long as its machine's memory.
    #[error("the snapshot's memory {path} is damaged: {found} bytes long, not {expected}")]
    MemoryLength { path: PathBuf, found: u64, expected: u64 },
    /// The snapshot's compatibility key is not that of this driver, image and host.
    #[error("the snapshot cannot be restored here: its compatibility key is {found}, and this host's is {expected}")]
    Incompatible { found: String, expected: String },
}

impl VmmError {
    /// Whether this error proves that the machine has ended. Every other error leaves that open, and what belongs to
    /// the machine must then be neither killed nor removed.
    pub fn is_death(&self) -> bool {
        matches!(self, VmmError::NotAlive { .. } | VmmError::Died { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shutdown(console: &str) -> String {
        ExitReason::GuestShutdown { console: console.to_owned() }.to_string()
    }

    #[test]
    fn a_guest_that_shut_down_is_told_apart_from_one_that_panicked() {
        assert_eq!(shutdown("[ 1.0] reboot: Restarting system"), "the guest shut down");
        let panic = "[ 1.0] Kernel panic - not syncing: sysrq triggered crash\n[ 1.1] CPU: 0";
        assert_eq!(shutdown(panic), "the guest's kernel panicked: sysrq triggered crash");
        let memory = "Kernel panic - not syncing: System is deadlocked on memory\n";
        assert_eq!(shutdown(memory), "the guest ran out of memory");
    }

    #[test]
    fn what_a_guest_writes_to_its_console_is_bounded_and_plain() {
        let forged = format!("{PANIC}\x1b[31m{}", "x".repeat(100_000));
        let told = shutdown(&forged);
        assert!(told.len() < 300 && told.is_ascii() && !told.contains('\x1b'), "{told}");
        let lines = ExitReason::Exited { code: 1, message: "one\ntwo\n".repeat(10_000) }.to_string();
        assert!(lines.len() < 300 && !lines.contains('\n'), "{lines}");
    }
}
