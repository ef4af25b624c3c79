//! Error handling that all crates share. This crate depends on nothing, because the guest's agent uses it too.
//!
//! By rule an error's text does not repeat its source. Whoever logs an error therefore writes [`chain`], never the
//! error itself; `make lint` refuses anything else (`tests/lint/errors.py`). Text from a guest that may end up in an
//! error or in the log goes through [`one_line`] when it is received.

mod chain;
mod file;
mod foreign;

pub use chain::{causes, chain};
pub use file::FileError;
pub use foreign::one_line;
