//! Commands of the host: run, watched, and reported whole when they fail.
//!
//! Used by every building step. Output is bounded; a command that fails reports argv, status, stdout and stderr.

use crate::progress::Step;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Bytes of each output stream that are kept: the last ones.
const KEPT: usize = 256 * 1024;
/// Characters of each output stream that a failure shows.
const SHOWN: usize = 4096;

/// How a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program could not be started.
    #[error("cannot start `{argv}`")]
    Start {
        argv: String,
        #[source]
        source: std::io::Error,
    },
    /// It was started, but its output or status was lost.
    #[error("lost `{argv}` while it ran")]
    Lost {
        argv: String,
        #[source]
        source: std::io::Error,
    },
    /// It ran and reported failure.
    #[error("`{argv}` failed ({status}){}{}", said("stdout", stdout), said("stderr", stderr))]
    Failed {
        argv: String,
        status: ExitStatus,
        /// End of its standard output.
        stdout: String,
        /// End of its standard error.
        stderr: String,
    },
}

fn said(stream: &str, text: &str) -> String {
    let text = text.trim();
    if text.is_empty() {
        return String::new();
    }
    let from = text.char_indices().rev().nth(SHOWN).map_or(0, |(at, _)| at);
    format!("\n  {stream}: {}", text[from..].replace('\n', "\n    "))
}

/// What happens to a running command when this process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tie {
    /// It runs to its end: package managers must not be cut off half-way.
    Loose,
    /// It is killed too.
    Killed,
    /// It runs in a mount and a process namespace of its own, and all of it vanishes, mounts included.
    Namespaced,
}

/// A command line about to be run.
#[derive(Debug)]
pub struct HostCommand {
    argv: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    removed_env: Vec<&'static str>,
    dir: Option<PathBuf>,
    tie: Tie,
}

impl HostCommand {
    /// A command without arguments yet, whose output is in English.
    pub fn new(program: &str) -> Self {
        Self {
            argv: vec![program.into()],
            env: vec![("LC_ALL", "C.UTF-8".into())],
            removed_env: Vec::new(),
            dir: None,
            tie: Tie::Loose,
        }
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.argv.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Hides an environment variable of ours from it.
    pub(crate) fn without_env(mut self, name: &'static str) -> Self {
        self.removed_env.push(name);
        self
    }

    /// Sets its working folder.
    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// It is killed when this process dies.
    pub(crate) fn tied(mut self) -> Self {
        self.tie = Tie::Killed;
        self
    }

    /// It, and everything it starts and mounts, vanishes when this process dies.
    pub(crate) fn in_namespaces(mut self) -> Self {
        self.tie = Tie::Namespaced;
        self
    }

    /// Runs it to the end, shows its last line of output as the step's detail, returns its standard output.
    pub(crate) fn run(&self, step: &Step) -> Result<String, CommandError> {
        self.finish(Stdio::piped(), |line| step.detail(line))
    }

    /// Runs it to the end without showing anything, returns its standard output.
    pub fn query(&self) -> Result<String, CommandError> {
        self.finish(Stdio::piped(), |_| {})
    }

    /// Runs it with its standard output going to a file.
    pub(crate) fn run_into(&self, file: File) -> Result<(), CommandError> {
        self.finish(file.into(), |_| {}).map(|_| ())
    }

    /// The command line as it would be typed, without the wrapping of ours.
    fn shown(&self) -> String {
        let words = self.argv.iter().map(|a| a.to_string_lossy());
        words
            .map(|w| if w.contains([' ', '\'', '"', '$', '\n']) { format!("{w:?}") } else { w.into_owned() })
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn spawn(&self, stdout: Stdio) -> Result<Child, CommandError> {
        let wrapping: &[&str] = match self.tie {
            Tie::Loose => &[],
            Tie::Killed => &["setpriv", "--pdeathsig", "KILL"],
            Tie::Namespaced => &[
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
        command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        command.spawn().map_err(|source| CommandError::Start { argv: self.shown(), source })
    }

    fn finish(&self, stdout: Stdio, mut show: impl FnMut(&str) + Send) -> Result<String, CommandError> {
        let lost = |source| CommandError::Lost { argv: self.shown(), source };
        let mut child = self.spawn(stdout)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| out.map_or_else(String::new, |pipe| keep_end(pipe, |_| {})));
            let stderr = err.map_or_else(String::new, |pipe| keep_end(pipe, &mut show));
            (reader.join().unwrap_or_default(), stderr)
        });
        let status = child.wait().map_err(lost)?;
        if status.success() {
            return Ok(stdout);
        }
        Err(CommandError::Failed { argv: self.shown(), status, stdout, stderr })
    }
}

/// Reads to the end of a pipe (a read error ends it too: the exit status tells what counts) and keeps its last part.
fn keep_end(pipe: impl Read, mut show: impl FnMut(&str)) -> String {
    let mut kept = String::new();
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while reader.by_ref().take(KEPT as u64).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line);
        // Progress bars redraw themselves with carriage returns; only the last state is of interest.
        let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
        if !text.is_empty() {
            show(text);
        }
        kept.push_str(text);
        kept.push('\n');
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
        let text = HostCommand::new("echo").arg("hello").tied().query().expect("runs");
        assert_eq!(text, "hello\n");
    }
}
