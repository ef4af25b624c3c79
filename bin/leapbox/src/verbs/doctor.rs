//! `leapbox doctor`: what is used and why, what is missing and how to get it. Changes nothing.
//!
//! ```text
//! runtime, installation, host, resources, isolation ─► checks ─► text or JSON; exit code 1 if any is red
//! ```
//!
//! What is read from /proc and /sys is read below a root that tests replace.

mod check;
mod host;
mod installation;
mod isolation;
mod resources;
mod runtime;

use crate::config::Config;
use check::Level;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Flags of `leapbox doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Why nothing is told.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// Standard output is closed.
    #[error("print the report")]
    Print {
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Looks at everything and prints what it found.
pub fn run(config: &Config, args: &Args) -> Result<ExitCode, DoctorError> {
    let root = Path::new("/");
    let mut checks = runtime::checks(config, root);
    checks.extend(installation::checks(config));
    checks.extend(host::checks(config, root));
    checks.extend(resources::checks(config, root));
    checks.extend(isolation::checks(root));

    let text = if args.json { check::as_json(&checks) } else { check::as_text(&checks) };
    std::io::stdout().write_all(text.as_bytes()).map_err(|source| DoctorError::Print { source })?;
    let red = checks.iter().any(|c| c.level == Level::Red);
    Ok(if red { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
