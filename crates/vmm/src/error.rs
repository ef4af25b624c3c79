//! Why a VMM did not do what was asked, and why one ended.

use crate::shape::Shape;
use leapbox_errors::FileError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Why a VMM is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// The process exited by itself; with its code and the end of what it printed.
    Exited {
        /// Exit code.
        code: i32,
        /// End of its standard error.
        message: String,
    },
    /// A signal ended the process.
    Signalled {
        /// Signal number.
        signal: i32,
    },
    /// The process used more memory than its control group allows, and the kernel ended it.
    OutOfMemory,
    /// The guest shut down, rebooted or panicked.
    GuestShutdown {
        /// End of the guest's console.
        console: String,
    },
    /// The process did not answer its control socket any more and was killed for it.
    Hung {
        /// How long it did not answer, in seconds.
        seconds: u64,
    },
    /// The process is gone, and who started it was not this server process, so its status is unknown.
    Gone,
}

impl ExitReason {
    /// Which of them it is in one word that does not change, for the log's field `exit`.
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

/// Begins the kernel's message (kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing: ";
/// What it panics with when nothing is left that it could kill (mm/oom_kill.c).
const DEADLOCK: &str = "deadlocked on memory";
/// Characters that are told of what a guest or its VMM has written. It may be anything.
const TOLD: usize = 200;

/// The beginning of a text from the other side of the walls, fit for a line of a log.
pub(crate) fn plain(text: &str) -> String {
    let one_line = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
    one_line.filter(|c| c.is_ascii_graphic() || *c == ' ').take(TOLD).collect()
}

/// What the last panic on a console was about.
fn panic_of(console: &str) -> Option<String> {
    let (_, after) = console.rsplit_once(PANIC)?;
    after.lines().next().map(plain)
}

/// What a driver's operation failed at.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// Something the driver needs is not on this host.
    #[error("{what} not found; {hint}")]
    Missing { what: String, hint: String },
    /// A file or folder operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// An operating system call failed.
    #[error("{step}")]
    System {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// The launcher could not build the walls around the VMM.
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
    /// What the VMM answered is not its protocol.
    #[error("the virtual machine monitor's answer to {command} cannot be read: {message}")]
    Protocol {
        command: String,
        /// What is wrong with the answer.
        message: String,
    },
    /// A process's memory could not be read, or not be written.
    #[error("{step} of process {pid}")]
    Memory {
        step: &'static str,
        pid: i32,
        #[source]
        source: std::io::Error,
    },
    /// A process has not mapped its RAM as a clone does: all of its file, once, copy-on-write.
    #[error("process {pid} has not mapped its RAM as a clone does: {found}")]
    Mapping { pid: i32, found: String },
    /// Changes to a memory could not be read where they come from.
    #[error("reading the changes to a memory")]
    Changes {
        #[source]
        source: std::io::Error,
    },
    /// What should be laid over a memory does not fit it.
    #[error("{length} bytes at {offset:#x} are no change of this memory: {fault}")]
    Change {
        offset: u64,
        length: usize,
        /// What is wrong with them.
        fault: &'static str,
    },
    /// A state is empty, or larger than any machine's.
    #[error("{found} bytes are no state of a machine")]
    StateLength { found: u64 },
    /// The note of what a machine's memory was composed of is damaged.
    #[error("{path} does not say any more what of its memory the machine was restored with")]
    Inherited { path: PathBuf },
    /// The memory that changes belong to could not be copied.
    #[error("copying the memory {path}")]
    CopyMemory {
        path: PathBuf,
        #[source]
        source: leapbox_storage::StorageError,
    },
    /// A stored working set is damaged, or of another size or version.
    #[error("{path} is no working set of this memory")]
    WorkingSet { path: PathBuf },
    /// The record is of a machine that no longer lives.
    #[error("process {pid} is not the recorded machine any more")]
    NotAlive { pid: i32 },
    /// A folder of the driver's cannot be used.
    #[error("preparing {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: leapbox_storage::PrivateError,
    },
    /// The record is of another driver's machine.
    #[error("the machine is {recorded}'s, and this server runs {own}: start it with driver = \"{recorded}\"")]
    OtherDriver { recorded: String, own: &'static str },
    /// No machine has this size.
    #[error("{shape} is no size of a machine: 1 to 8 vCPUs and 512 to 8192 MiB, an even number")]
    Shape { shape: Shape },
    /// A snapshot's memory is not as long as its machine's.
    #[error("the snapshot's memory {path} is damaged: {found} bytes long, not {expected}")]
    MemoryLength {
        path: PathBuf,
        found: u64,
        /// The machine's memory in bytes.
        expected: u64,
    },
    /// The snapshot was made for something else.
    #[error("the snapshot does not fit: it was made for {found}, this host is {expected}")]
    Incompatible { found: String, expected: String },
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
