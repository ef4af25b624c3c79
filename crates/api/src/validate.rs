//! What a request must look like: pure functions from JSON or a query to a checked request, or every bad field.

pub(crate) mod filesystem;
mod network;
mod paging;
pub(crate) mod process;
mod query;
pub(crate) mod sandbox;
pub(crate) mod snapshot;

pub(crate) use query::Query;
