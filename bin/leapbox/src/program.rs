//! Logging, and the report of an error that ends the program; shared by `leapbox` and `leapbox-bench`.

use crate::config::{Config, LogFormat};
use leapbox_errors::causes;
use std::error::Error;

/// Starts logging to standard error. `LEAPBOX_LOG` filters the lines (`info`, `leapbox_network=debug`, …); without it
/// `level` and above are shown.
pub fn start_logging(config: &Config, level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LEAPBOX_LOG").unwrap_or_else(|_| level.into());
    // Standard output belongs to the verbs: the exports of `env` are evaluated by a shell.
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

/// Formats an error and its causes for the person at the terminal, each on a line of its own.
pub fn explain(error: &dyn Error) -> String {
    let lines: Vec<String> = causes(error).map(ToString::to_string).collect();
    lines.join("\n  because: ")
}
