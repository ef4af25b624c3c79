//! Another program that ours is compared with, and how the two are measured.

use crate::process::Process;
use anyhow::{Context, Result};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// For a proxy to listen.
const START: Duration = Duration::from_secs(5);

/// Started, or not there to be compared with.
pub enum Rival {
    /// It runs; what it says its version is.
    Running(Process, String),
    /// Why it does not run.
    Missing(String),
}

impl Rival {
    /// Starts a proxy in the calling thread's namespace and waits until it listens.
    pub fn start(command: &mut Command, listens: SocketAddr) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let output = match Command::new(&program).arg("-v").output() {
            Ok(output) => output,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self::Missing(format!("{program} is not installed: nothing to compare with")));
            }
            Err(error) => return Err(error).with_context(|| format!("asking {program} for its version")),
        };
        // "HAProxy version 2.6.12-1 2026/10/17 - https://haproxy.org/" on standard output, or "nginx version:
        // nginx/1.22.1" on standard error.
        let said = [output.stdout, output.stderr].concat();
        let version = String::from_utf8_lossy(&said).split_whitespace().take(3).collect::<Vec<_>>().join(" ");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut process = Process(child.with_context(|| format!("starting {program}"))?);
        Ok(match wait(&mut process, listens) {
            None => Self::Running(process, version),
            Some(why) => Self::Missing(format!("{version} did not start: {why}")),
        })
    }
}

/// Why it does not listen; nothing once it does.
fn wait(process: &mut Process, listens: SocketAddr) -> Option<String> {
    let deadline = Instant::now() + START;
    while TcpStream::connect(listens).is_err() {
        if let Ok(Some(status)) = process.0.try_wait() {
            return Some(format!("ended with {status}"));
        }
        if Instant::now() > deadline {
            return Some(format!("not listening after {} s", START.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// How often and for how long each side is measured.
#[derive(Clone, Copy)]
pub struct Rounds {
    pub count: usize,
    pub length: Duration,
    /// Of the one round before, which does not count: names, sessions and caches.
    pub warm_up: Duration,
}

impl Rounds {
    /// Measures ours and theirs in turn, so that a drift of the machine falls on both.
    pub fn in_turn<S: Copy, T>(
        self,
        ours: S,
        theirs: Option<S>,
        measure: impl Fn(S, Duration) -> Result<T>,
    ) -> Result<(Vec<T>, Vec<T>)> {
        for side in [Some(ours), theirs].into_iter().flatten() {
            measure(side, self.warm_up)?;
        }
        let (mut of_ours, mut of_theirs) = (Vec::new(), Vec::new());
        for _ in 0..self.count {
            of_ours.push(measure(ours, self.length)?);
            if let Some(theirs) = theirs {
                of_theirs.push(measure(theirs, self.length)?);
            }
        }
        Ok((of_ours, of_theirs))
    }
}
