//! `leapbox doctor`: reports what this host uses and why, and what is missing and how to get it. It changes nothing.
//!
//! ```text
//! runtime, installation, host, resources, stored, isolation ─► checks ─► text or JSON; exit code 1 if any is red
//! firecracker (kvm, jails), where it is or could be the driver ─┘
//! ```
//!
//! Files of /proc and /sys are read below a root directory, in whose place tests put one of their own.

mod check;
#[cfg(test)]
mod fake_host;
mod firecracker;
mod host;
mod installation;
mod isolation;
mod jails;
mod kvm;
mod mounts;
mod resources;
mod runtime;
mod stored;

use crate::config::Config;
use crate::verbs::driver::{self, DriverFacts};
use check::Level;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Flags of `leapbox doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// The reason why `leapbox doctor` failed. Findings are no errors: they are in the report.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    #[error("printing the report")]
    Print {
        #[source]
        source: std::io::Error,
    },
}

/// Makes every check and prints the report; the exit code is 1 if a finding is red.
pub fn run(config: &Config, args: &Args) -> Result<ExitCode, DoctorError> {
    let root = Path::new("/");
    let facts = DriverFacts::read(root);
    let choice = driver::choose(config.driver, &facts);
    let mut checks = runtime::checks(&choice);
    if let Some(relevance) = firecracker::Relevance::of(config.driver, &facts, &choice) {
        checks.extend(firecracker::checks(relevance, &facts, &config.state_dir(), &config.artifacts_dir, root));
    }
    checks.extend(installation::checks(config));
    checks.extend(host::checks(config, root));
    checks.extend(resources::checks(config, root));
    checks.extend(stored::checks(config));
    checks.extend(isolation::checks(root));

    let text = if args.json { check::as_json(&checks) } else { check::as_text(&checks) };
    std::io::stdout().write_all(text.as_bytes()).map_err(|source| DoctorError::Print { source })?;
    let red = checks.iter().any(|c| c.level == Level::Red);
    Ok(if red { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Reads a file of /proc or /sys, trimmed; `None` if this kernel does not have it.
fn read(root: &Path, path: &str) -> Option<String> {
    std::fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned())
}
