//! Validation: pure functions from JSON or a query string to a checked request, or to a list of every bad field.
//!
//! The handlers in `routes/` call them before anything else.

pub(crate) mod filesystem;
mod network;
mod paging;
pub(crate) mod process;
mod query;
pub(crate) mod sandbox;
pub(crate) mod snapshot;

pub(crate) use query::Query;
