//! How both programs, `leapbox` and `leapbox-bench`, log and report an error that ends them.

use crate::config::{Config, LogFormat};
use leapbox_errors::causes;
use std::error::Error;

/// Logs go to standard error; `LEAPBOX_LOG` filters them (`info`, `leapbox_network=debug`, …), else `level` and above
/// are shown.
pub fn start_logging(config: &Config, level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LEAPBOX_LOG").unwrap_or_else(|_| level.into());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

/// An error and its causes for the person at the terminal, each on a line of its own.
pub fn explain(error: &dyn Error) -> String {
    let lines: Vec<String> = causes(error).map(ToString::to_string).collect();
    lines.join("\n  because: ")
}
