//! Request and response bodies of the API, shared by server, gateway, command line and tests.
//!
//! The wire's words and bounds stand here once. [`error`] is the one table that turns an error into an HTTP answer.

#![forbid(unsafe_code)]

pub mod error;
pub mod filesystem;
pub mod network;
pub mod process;
pub mod sandbox;
pub mod snapshot;
pub mod system;

pub use error::{ApiError, FieldError};

/// Bytes a request's or an answer's body may have: 10 MiB.
pub const BODY_MAX: usize = 10 << 20;
