//! Why a VMM did not do what was asked, and why one ended.

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
    /// The guest shut down, rebooted or panicked.
    GuestShutdown {
        /// End of the guest's console.
        console: String,
    },
    /// The process is gone, and who started it was not this server process, so its status is unknown.
    Gone,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitReason::Exited { code, message } if message.is_empty() => {
                write!(f, "the virtual machine monitor exited with code {code}")
            }
            ExitReason::Exited { code, message } => {
                write!(f, "the virtual machine monitor exited with code {code}: {message}")
            }
            ExitReason::Signalled { signal } => {
                write!(f, "the virtual machine monitor was killed by signal {signal}")
            }
            ExitReason::GuestShutdown { .. } => f.write_str("the guest shut down"),
            ExitReason::Gone => f.write_str("the virtual machine monitor is gone"),
        }
    }
}

/// What a driver's operation failed at.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// Something the driver needs is not on this host.
    #[error("{what} not found; {hint}")]
    Missing {
        /// What is missing.
        what: String,
        /// How to get it.
        hint: String,
    },
    /// A file or folder operation failed.
    #[error("{step}: {path}")]
    File {
        /// What was done.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// An operating system call failed.
    #[error("{step}")]
    System {
        /// What was done.
        step: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The launcher could not build the walls around the VMM.
    #[error("launching the virtual machine monitor failed: {message}")]
    Launch {
        /// What the launcher said.
        message: String,
    },
    /// The VMM ended while it was being set up.
    #[error("the virtual machine monitor died while {stage}: {reason}")]
    Died {
        /// What was going on.
        stage: &'static str,
        /// Why it died.
        reason: ExitReason,
    },
    /// The VMM refused a control command.
    #[error("the virtual machine monitor refused {command}: {message}")]
    Refused {
        /// The command.
        command: String,
        /// Its answer.
        message: String,
    },
    /// The VMM did not answer in time.
    #[error("the virtual machine monitor did not answer {command} within {seconds} s")]
    Hung {
        /// The command.
        command: String,
        /// The deadline.
        seconds: u64,
    },
    /// What the VMM answered is not its protocol.
    #[error("the virtual machine monitor's answer to {command} cannot be read: {message}")]
    Protocol {
        /// The command.
        command: String,
        /// What is wrong with the answer.
        message: String,
    },
    /// The record is of a machine that no longer lives.
    #[error("process {pid} is not the recorded machine any more")]
    NotAlive {
        /// The recorded process id.
        pid: i32,
    },
    /// The snapshot was made for something else.
    #[error("the snapshot does not fit: it was made for {found}, this host is {expected}")]
    Incompatible {
        /// The snapshot's key.
        found: String,
        /// This host's key.
        expected: String,
    },
}
