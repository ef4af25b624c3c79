//! Request and response bodies of the API, and the bounds of their fields, shared by control plane, gateway, lifecycle,
//! database and tests.
//!
//! The doc comments of types that derive `ToSchema` are descriptions in `docs/openapi.json`. [`error`] is the one table
//! that turns an error into an HTTP answer.

#![forbid(unsafe_code)]

pub mod error;
pub mod filesystem;
pub mod network;
pub mod process;
pub mod sandbox;
pub mod snapshot;
pub mod system;

pub use error::{ApiError, FieldError};

/// Bytes that the body of a request or of an answer may have: 10 MiB.
// The published limit of the contract for the tools. The agent's frames are sized by it (`MAX_CONTENT`).
pub const BODY_MAX: usize = 10 << 20;
