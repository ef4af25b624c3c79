//! Lines on the guest's console.

use std::fmt::Arguments;
use std::io::Write as _;

/// Writes one line to the console. A console that is gone or full is no reason to fail.
pub fn line(message: Arguments<'_>) {
    let _ = std::io::stderr().write_all(format!("leapbox-agent: {message}\n").as_bytes());
}
