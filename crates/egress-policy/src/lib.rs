//! The network policy of a sandbox (the API's `network_policy`) as data, and its evaluation. The crate does no I/O and
//! knows no clock and no runtime.
//!
//! ```text
//! network_policy (JSON) ── Policy::parse ──► Policy ── Evaluator ──┬── name(domain)      the resolver, the proxy
//!        ▲                                    │                    ├── address(IPv4)     what an answer may hold,
//!        └── document (sealed), shown ◄───────┘                    │                     what the proxy dials
//!                                                                  ├── direct()          the slot's rules
//! first bytes of a connection ── stream::client_hello, ──► name    └── exceptions()      the host's rules
//!                                stream::http
//! ```
//!
//! The API calls it to validate a policy, `lifecycle` to store one, `network` for a slot's rules and name server, and
//! the egress proxy for each connection.

#![forbid(unsafe_code)]

mod cidr;
mod denial;
mod document;
mod evaluate;
mod header;
mod name;
mod parse;
mod pattern;
mod policy;
mod secret;
pub mod stream;
mod unreachable;

pub use cidr::{Cidr, CidrError};
pub use denial::Denial;
pub use evaluate::{Evaluator, Passage};
pub use name::{DomainName, NameError};
pub use pattern::{DomainPattern, PatternError};
pub use policy::{Custom, Policy, Problem, Transform};
pub use secret::Secret;
pub use unreachable::{UNREACHABLE, operator_cidr};
