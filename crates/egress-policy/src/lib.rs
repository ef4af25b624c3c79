//! The network policy of a sandbox (the API's `network_policy`) as data, and its evaluation. The crate does no I/O and
//! knows no clock and no runtime.
//!
//! ```text
//! network_policy (JSON) ── Policy::parse ──► Policy ── Evaluator ──┬── name(domain)      the name server, the proxy
//!        ▲                                    │                    ├── address(IPv4)     what an answer may hold,
//!        └── document (sealed), shown ◄───────┘                    │                     what the proxy dials
//!                                                                  ├── direct()          the slot's rules
//! first bytes of a connection ── stream::client_hello, ──► name    └── opened_networks() the host's rules
//!                                stream::http
//! ```
//!
//! *Closed addresses* ([`CLOSED_NETWORKS`]) may not be reached by any sandbox, whatever its policy: private networks,
//! loopback, metadata and the like. The host's own addresses and other sandboxes', which the evaluator does not know,
//! are closed by the host's rules. *Opened networks* ([`Evaluator::opened_networks`]) are closed ones that the operator
//! (`egress_private_cidrs`) and a `custom` policy (`allow_cidrs`) both name; they are open to that policy's sandbox
//! alone.
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

pub use cidr::{Cidr, CidrError, merged};
pub use denial::Denial;
pub use evaluate::{Evaluator, Passage};
pub use name::{DomainName, NameError};
pub use pattern::{DomainPattern, PatternError};
pub use policy::{Custom, Policy, Problem, Transform};
pub use secret::Secret;
pub use unreachable::{CLOSED_NETWORKS, operator_cidr};
