//! Lines on the guest's console.

use std::error::Error;
use std::fmt::{Arguments, Write as _};
use std::io::Write as _;

/// Writes one line to the console. A console that is gone or full is no reason to fail.
pub fn line(message: Arguments<'_>) {
    let _ = std::io::stderr().write_all(format!("leapbox-agent: {message}\n").as_bytes());
}

/// An error and its causes, on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
