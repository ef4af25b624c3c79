//! Programs of the host that set-up runs: package managers, mmdebstrap, mkfs.erofs, decompressors.
//!
//! The output that is kept is bounded. A command that fails reports its argv, status, stdout and stderr.

use crate::progress::Step;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

// The last bytes of each output stream are kept, so that a program that writes without end does not fill the memory.
// Output that callers parse, apt's answers, is far shorter.
const KEPT: usize = 256 * 1024;
// The last characters of each output stream are shown with a failure: the end is where programs say why.
const SHOWN: usize = 4096;

/// A command of the host failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program was not found, or could not be executed.
    #[error("cannot start `{argv}`")]
    Start {
        argv: String,
        #[source]
        source: std::io::Error,
    },
    /// The program was started, but its exit status could not be had.
    #[error("`{argv}` was started, but its exit status is not known")]
    Wait {
        argv: String,
        #[source]
        source: std::io::Error,
    },
    /// The program reported failure. `stdout` and `stderr` are the ends of its output.
    #[error("`{argv}` failed ({status}){}{}", stream_text("stdout", stdout), stream_text("stderr", stderr))]
    Failed { argv: String, status: ExitStatus, stdout: String, stderr: String },
}

fn stream_text(stream: &str, text: &str) -> String {
    let text = text.trim();
    if text.is_empty() {
        return String::new();
    }
    let from = text.char_indices().rev().nth(SHOWN).map_or(0, |(at, _)| at);
    format!("\n  {stream}: {}", text[from..].replace('\n', "\n    "))
}

/// The fate of a running command when this process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhenKilled {
    /// The command runs to its end. Meant for the host's package manager, which must not be ended in the middle of an
    /// installation.
    Survives,
    /// The command is killed, but not processes that it has started.
    Killed,
    /// The command runs in a mount and a process namespace of its own, which end with it: its processes are killed, and
    /// its mounts vanish.
    Namespaced,
}

/// A command line that can be run.
#[derive(Debug)]
pub struct HostCommand {
    argv: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    removed_env: Vec<&'static str>,
    dir: Option<PathBuf>,
    when_killed: WhenKilled,
}

impl HostCommand {
    /// Makes a command without arguments.
    pub fn new(program: &str) -> Self {
        Self {
            argv: vec![program.into()],
            // Output is parsed and is shown in errors, so it must not depend on the operator's language.
            env: vec![("LC_ALL", "C.UTF-8".into())],
            removed_env: Vec::new(),
            dir: None,
            when_killed: WhenKilled::Survives,
        }
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.argv.push(arg.into());
        self
    }

    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Keeps the command from inheriting an environment variable of this process.
    pub(crate) fn without_env(mut self, name: &'static str) -> Self {
        self.removed_env.push(name);
        self
    }

    /// Sets the working directory.
    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// Has the command killed when this process dies.
    pub(crate) fn killed_with_us(mut self) -> Self {
        self.when_killed = WhenKilled::Killed;
        self
    }

    /// Has the command, and everything that it starts and mounts, ended when this process dies.
    pub(crate) fn in_namespaces(mut self) -> Self {
        self.when_killed = WhenKilled::Namespaced;
        self
    }

    /// Runs the command to its end and returns its standard output. The lines of its standard error are shown as
    /// details of the step.
    pub(crate) fn run(&self, step: &Step) -> Result<String, CommandError> {
        self.finish(Stdio::piped(), |line| step.detail(line))
    }

    /// Runs the command to its end without showing anything and returns its standard output.
    pub fn query(&self) -> Result<String, CommandError> {
        self.finish(Stdio::piped(), |_| {})
    }

    /// Runs the command with its standard output written to a file.
    pub(crate) fn run_into(&self, file: File) -> Result<(), CommandError> {
        self.finish(file.into(), |_| {}).map(|_| ())
    }

    /// The command line as an operator would type it, without the programs that it is wrapped in.
    fn shown(&self) -> String {
        let words = self.argv.iter().map(|a| a.to_string_lossy());
        words
            .map(|w| if w.contains([' ', '\'', '"', '$', '\n']) { format!("{w:?}") } else { w.into_owned() })
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn spawn(&self, stdout: Stdio) -> Result<Child, CommandError> {
        // setpriv makes the kernel send SIGKILL to the command when this process dies (PR_SET_PDEATHSIG). With
        // namespaces that hits unshare, which then kills the first process of the new process namespace, and with that
        // one the kernel kills all others and drops the mounts.
        let wrapping: &[&str] = match self.when_killed {
            WhenKilled::Survives => &[],
            WhenKilled::Killed => &["setpriv", "--pdeathsig", "KILL"],
            WhenKilled::Namespaced => &[
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child=KILL",
                "--mount-proc",
            ],
        };
        let mut words = wrapping.iter().map(OsString::from).chain(self.argv.iter().cloned());
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).envs(self.env.iter().map(|(k, v)| (k, v)));
        for name in &self.removed_env {
            command.env_remove(name);
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        // No input: a program that would ask a question fails or takes its default, and never waits for an answer.
        command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        command.spawn().map_err(|source| CommandError::Start { argv: self.shown(), source })
    }

    fn finish(&self, stdout: Stdio, mut show: impl FnMut(&str) + Send) -> Result<String, CommandError> {
        let wait_failed = |source| CommandError::Wait { argv: self.shown(), source };
        let mut child = self.spawn(stdout)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        // Both pipes at once: a program that fills one of them while the other is read would wait forever.
        let (stdout, stderr) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| out.map_or_else(String::new, |pipe| keep_end(pipe, |_| {})));
            let stderr = err.map_or_else(String::new, |pipe| keep_end(pipe, &mut show));
            (reader.join().unwrap_or_default(), stderr)
        });
        let status = child.wait().map_err(wait_failed)?;
        if status.success() {
            return Ok(stdout);
        }
        Err(CommandError::Failed { argv: self.shown(), status, stdout, stderr })
    }
}

/// Reads a pipe to its end and keeps the last part. A read error is treated as the end, because the exit status decides
/// whether the command has failed.
fn keep_end(pipe: impl Read, mut show: impl FnMut(&str)) -> String {
    let mut kept = String::new();
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    // A line without an end is cut into pieces of this size.
    while reader.by_ref().take(KEPT as u64).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line);
        // Progress bars redraw themselves with carriage returns; only the last state is of interest.
        let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
        if !text.is_empty() {
            show(text);
        }
        kept.push_str(text);
        kept.push('\n');
        // At twice the size, because removing the beginning moves all the rest: done for each line, that would be slow.
        if kept.len() > 2 * KEPT {
            let beyond = kept.len() - KEPT;
            let cut = (beyond..kept.len()).find(|at| kept.is_char_boundary(*at)).unwrap_or(kept.len());
            kept.drain(..cut);
        }
        line.clear();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_reports_argv_status_stdout_and_stderr() {
        let error = HostCommand::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]).query().expect_err("fails");
        let text = error.to_string();
        for part in ["sh -c", "exit status: 3", "stdout: out", "stderr: err"] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = HostCommand::new("no-such-program-here").query().expect_err("fails");
        assert!(error.to_string().contains("no-such-program-here"));
    }

    #[test]
    fn endless_output_is_bounded() {
        let text = HostCommand::new("sh").args(["-c", "yes | head -c 3000000"]).query().expect("runs");
        assert!(text.len() <= 2 * KEPT);
    }

    #[test]
    fn a_tied_command_runs_like_any_other() {
        let text = HostCommand::new("echo").arg("hello").killed_with_us().query().expect("runs");
        assert_eq!(text, "hello\n");
    }
}
