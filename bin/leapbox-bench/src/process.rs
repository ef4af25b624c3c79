//! The processes of a run: this program, started again with a hidden role, and the proxies beside it.

use anyhow::{Context, Result};
use leapbox_errors::chain;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// From SIGTERM until SIGKILL.
const END: Duration = Duration::from_secs(5);

/// This program, to be started again with a hidden role.
pub fn this_program() -> Result<Command> {
    Ok(Command::new(std::env::current_exe().context("finding this program")?))
}

/// A runtime that has the calling thread alone.
pub fn single_threaded() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("starting a runtime")
}

pub fn multi_threaded() -> Result<Runtime> {
    Builder::new_multi_thread().enable_all().build().context("starting a runtime")
}

/// Reads the JSON that a child has printed.
pub fn parse<T: DeserializeOwned>(child: &str, stdout: &[u8]) -> Result<T> {
    let said = || format!("the {child} process said {:?}", String::from_utf8_lossy(stdout));
    serde_json::from_slice(stdout).with_context(said)
}

/// Ended when dropped.
pub struct Process(pub Child);

impl Process {
    /// The first line of its standard output, which is closed then.
    pub fn first_line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if let Some(stdout) = self.0.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        Ok(line)
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Not a kill at once: that would leave nginx's workers behind. The id is its own for as long as it is not reaped.
        if self.is_running() {
            let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        }
        let deadline = Instant::now() + END;
        while self.is_running() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        // One that has ended already is what we want.
        let _ = self.0.kill();
        if let Err(error) = self.0.wait() {
            tracing::warn!(error = %chain(&error), "could not wait for a process of the run");
        }
    }
}
