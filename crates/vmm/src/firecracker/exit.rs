//! Explains the end of a Firecracker process by its exit code and what it printed.

use super::console::Console;
use crate::error::{ExitReason, VmmError};
use crate::log::{adopted_log, log_text};
use std::fs::File;

/// Those of Firecracker's exit codes (its `FcExitCode`) that stand for one cause.
const MEANINGS: [(i32, &str); 6] = [
    (148, "it made a system call that its filter forbids"),
    (149, "it was hit by SIGBUS: a file it maps could not be read, or the host's disk is full"),
    (150, "it was hit by SIGSEGV"),
    (151, "it was hit by SIGXFSZ: a file grew past its limit"),
    (152, "it was hit by SIGXCPU"),
    (157, "it was hit by SIGILL"),
];

/// The output of one Firecracker.
pub(super) struct Logs {
    /// Standard output: the guest's console and the VMM's own log.
    pub console: Console,
    /// Standard error, a [`bounded_log`](crate::log::bounded_log).
    pub errors: File,
}

impl Logs {
    /// Opens the output of process `pid`, which a previous server started.
    pub fn adopted(pid: i32) -> Result<Self, VmmError> {
        Ok(Self { console: Console::adopted(pid)?, errors: adopted_log(pid)? })
    }

    /// Adds to `reason` what the output says of it.
    pub async fn explain(&self, reason: ExitReason) -> ExitReason {
        match reason {
            // Firecracker exits with 0 when its guest has shut down, rebooted or panicked (`reboot=k`, `panic=-1`).
            ExitReason::Exited { code: 0, .. } => {
                ExitReason::GuestShutdown { console: self.console.final_text().await }
            }
            ExitReason::Exited { code, .. } => ExitReason::Exited { code, message: self.message(code).await },
            other => other,
        }
    }

    async fn message(&self, code: i32) -> String {
        if let Some((_, meaning)) = MEANINGS.iter().find(|(known, _)| *known == code) {
            return (*meaning).to_owned();
        }
        let errors = log_text(&self.errors);
        if !errors.is_empty() {
            return errors;
        }
        // Firecracker logs its errors to standard output, behind whatever the guest has printed.
        self.console.final_text().await.lines().last().unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::bounded_log;
    use std::io::Write;

    #[tokio::test]
    async fn an_exit_is_told_in_words() {
        let (console, mut end) = Console::new().expect("made");
        let logs = Logs { console, errors: bounded_log(4096).expect("made") };
        end.write_all(b"reboot: Restarting system\n").expect("written");
        drop(end);
        let exited = |code| logs.explain(ExitReason::Exited { code, message: String::new() });
        assert_eq!(exited(0).await, ExitReason::GuestShutdown { console: "reboot: Restarting system".to_owned() });
        assert!(exited(148).await.to_string().contains("filter forbids"));
        assert!(exited(1).await.to_string().contains("Restarting"));
        (&logs.errors).write_all(b"Error: RunWithApi\n").expect("written");
        assert!(exited(1).await.to_string().contains("RunWithApi"));
    }
}
