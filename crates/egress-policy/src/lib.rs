//! What a sandbox may reach: the policy of the API as data, and its pure evaluation. No I/O, no clock, no runtime.
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
//! Called by the API (to validate), the lifecycle (to store), the network (rules and names) and the egress proxy.

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
