//! What a Firecracker's end means.

use super::console::Console;
use crate::error::ExitReason;
use crate::log::log_text;
use std::fs::File;

/// Firecracker's exit codes that say more than "an error" (its `FcExitCode`).
const MEANINGS: [(i32, &str); 6] = [
    (148, "it made a system call that its filter forbids"),
    (149, "it was hit by SIGBUS: a file it maps could not be read, or the host's disk is full"),
    (150, "it was hit by SIGSEGV"),
    (151, "it was hit by SIGXFSZ: a file grew past its limit"),
    (152, "it was hit by SIGXCPU"),
    (157, "it was hit by SIGILL"),
];

/// What the process wrote to its standard output (the guest's console and the VMM's log) and standard error.
pub(super) struct Logs {
    pub console: Console,
    pub errors: File,
}

impl Logs {
    /// The reason with what there is to tell about it. Firecracker exits with 0 when its guest has shut down.
    pub async fn explain(&self, reason: ExitReason) -> ExitReason {
        match reason {
            ExitReason::Exited { code: 0, .. } => {
                ExitReason::GuestShutdown { console: self.console.last_words().await }
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
        self.console.last_words().await.lines().last().unwrap_or_default().to_owned()
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
