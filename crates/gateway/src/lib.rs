//! The HTTPS gateway: routes a request by its host name to an application in a sandbox, or to the control plane.
//!
//! ```text
//!                     ┌─ worker ─────┐  ┌─────────────── forward ───────────────┐
//!  client ─TLS, h1/h2─┤ connection:  ├─►│ host ─► key ─► find (wakes) ─► headers├─► exchange ─► pool / open ─► app
//!                     │ one task     │  │   │                                   ├─► upgrade ─► tunnel ───────► app
//!                     └──────────────┘  └───┴───────────────────────────────────┘
//!                                           └─► `<domain>`, `api.<domain>`: the control plane's router
//! ```
//!
//! The binary builds a [`Gateway`] over its [`Backends`] and calls [`Gateway::serve`]; whoever ends or pauses a sandbox
//! calls [`Gateway::forget`]. Nothing here buffers a body: a response is read from the application only as fast as the
//! client takes it, in the client's own task, and an upload the other way round.
//!
//! Both sides are untrusted. The client is held to [`Limits`], and what it claims about itself (`X-Forwarded-*`,
//! `Connection`) is discarded. The application's answer is parsed under caps; it can neither pass for an error of the
//! gateway nor set cookies for other sandboxes (see `headers.rs`).

#![forbid(unsafe_code)]

mod answer;
mod backends;
mod body;
mod body_error;
mod client;
mod config;
mod connection;
mod exchange;
mod forward;
mod headers;
mod host;
mod pool;
mod request_body;
mod revocable;
mod server;
mod shared;
mod stats;
mod thread;
pub mod tls;
mod tunnel;
mod upgrade;
mod upstream;
mod worker;

pub use answer::ERROR_MARK;
pub use backends::{Backend, Backends, OpenError};
pub use config::{Config, Limits};
pub use server::{Gateway, ServeError};
pub use stats::Stats;
