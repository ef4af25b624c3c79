//! Runs the `nft` program: when the server starts, when a slot is prepared, adopted, given its policy or released, and
//! when the host-wide table is looked at.

use crate::error::NetworkError;
use std::io::Write;
use std::process::{Command, Stdio};

/// Applies a script as one transaction in the calling thread's network namespace. Blocks for some milliseconds.
pub(crate) fn apply(script: &str) -> Result<(), NetworkError> {
    run(&["-f", "-"], script).map(|_| ())
}

/// Returns all chains of the calling thread's namespace as nft's JSON.
pub(crate) fn chains_json() -> Result<String, NetworkError> {
    run(&["-j", "list", "chains"], "")
}

/// Returns a table of the family inet, in the calling thread's namespace, as nft's JSON.
pub(crate) fn table_json(table: &str) -> Result<String, NetworkError> {
    run(&["-j", "list", "table", "inet", table], "")
}

/// Returns the program's version line.
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
        // If nft has ended already, its standard error says why, which is a better message than a broken pipe.
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
