//! Runs `nft`. Never on the way of a create: only when a slot is prepared, adopted, or the server starts.

use crate::error::NetworkError;
use std::io::Write;
use std::process::{Command, Stdio};

/// Applies a script as one transaction, in the network namespace of the calling thread. Blocks for some milliseconds.
pub(crate) fn apply(script: &str) -> Result<(), NetworkError> {
    run(&["-f", "-"], script).map(|_| ())
}

/// All chains of the calling thread's namespace, as nft's JSON.
pub(crate) fn chains_json() -> Result<String, NetworkError> {
    run(&["-j", "list", "chains"], "")
}

/// The program's own version line.
pub(crate) fn version() -> Result<String, NetworkError> {
    run(&["--version"], "").map(|text| text.trim().to_owned())
}

fn run(arguments: &[&str], stdin: &str) -> Result<String, NetworkError> {
    let argv = format!("nft {}", arguments.join(" "));
    let not_started = |source| NetworkError::NftStart { argv: argv.clone(), source };
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_started)?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that has already given up tells why on its standard error, which is the better message.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output().map_err(not_started)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(NetworkError::NftFailed { argv, status: output.status, stdout, stderr })
}
