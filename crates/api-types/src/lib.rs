//! Request and response bodies of the API, shared by server, gateway, command line and tests.
//!
//! The wire's words and bounds stand here once. [`error`] is the one table that turns an error into an HTTP answer.

pub mod error;
pub mod sandbox;

pub use error::{ApiError, FieldError};
