//! What a request must look like: pure functions from JSON or a query to a checked request, or every bad field.

pub(crate) mod filesystem;
pub(crate) mod process;
mod query;
pub(crate) mod sandbox;

pub(crate) use query::Query;
