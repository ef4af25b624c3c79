//! The agent's log: lines on the guest's console, of which the host keeps the last ones.

use std::fmt::Arguments;
use std::io::Write as _;

/// Writes one line to the console.
pub fn line(message: Arguments<'_>) {
    // A console that is gone or full must not stop PID 1, so an error of writing to it is dropped.
    let _ = std::io::stderr().write_all(format!("leapbox-agent: {message}\n").as_bytes());
}
