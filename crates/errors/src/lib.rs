//! What every crate does alike with errors. It depends on nothing, because the guest's agent uses it too.
//!
//! By rule an error's text does not repeat its source. Whoever logs an error therefore writes [`chain`], never the error
//! itself: `make lint` refuses anything else (`tests/lint/errors.py`).

mod chain;
mod file;

pub use chain::{causes, chain};
pub use file::FileError;
