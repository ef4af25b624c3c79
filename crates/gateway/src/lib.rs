//! The HTTPS entrance: from a hostname to the application in a sandbox, and to the control plane.
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
//! Both sides are untrusted. The client is held to [`Limits`], and what it says about itself (`X-Forwarded-*`,
//! `Connection`) is not believed. The guest's answer is parsed under caps, and it can neither speak in our name nor set
//! cookies for its neighbours (see `headers.rs`).

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
mod link;
mod pool;
mod request_body;
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
