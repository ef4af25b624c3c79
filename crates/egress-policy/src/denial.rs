//! The vocabulary of all refusals: one variant for each reason for which a query, a packet, a connection or a request
//! of a sandbox is refused, with its text in the operator's log and its label in the metrics. The sandbox's name
//! server, the egress proxy and the reader of the kernel's log make them; the journal (crate `leapbox-egress`) logs and
//! counts them.
//!
//! Not all of them are the policy's: a limit may be reached (`too_many`, `slow`), or an allowed name may have no
//! address or no usable server (`unresolved`, `server_silent`, `upstream`).

use crate::name::DomainName;
use leapbox_errors::one_line;
use std::net::Ipv4Addr;

/// Bytes of a guest's text that one log line repeats.
const QUOTED_MAX: usize = 80;

/// The reason of a refusal. `Display` is the text of the operator's log and of the answer to the sandbox's HTTP
/// request; [`Denial::rule`] is the label of the counter, explained in docs/network-policy.md. It holds no secret, no
/// path and no header's value. Text that the guest has written is escaped and cut short.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    #[error("the policy is deny-all")]
    DenyAll,
    #[error("{name} is not allowed")]
    Name { name: DomainName },
    #[error("\"{text}\" is not a domain name")]
    NotAName { text: String },
    #[error("{address} can't be reached by a sandbox: {what}")]
    Address { address: Ipv4Addr, what: &'static str },
    #[error("{protocol} to {address}{} is not allowed", port.map(|port| format!(" port {port}")).unwrap_or_default())]
    Packet { protocol: &'static str, address: Ipv4Addr, port: Option<u16> },
    #[error("no name can be seen, and the address is not in allow_cidrs")]
    NoName,
    #[error("the TLS hello hides its name (encrypted client hello)")]
    EncryptedHello,
    #[error("malformed: {what}")]
    Malformed { what: &'static str },
    #[error("a request for another host on a connection to {name}")]
    Authority { name: DomainName },
    #[error("a DNS query of type {kind} for {name}")]
    QueryType { name: DomainName, kind: String },
    #[error("too many {what}")]
    TooMany { what: &'static str },
    #[error("{what} took too long")]
    Slow { what: &'static str },
    #[error("{name} has no address that a sandbox may reach")]
    Unresolved { name: DomainName },
    #[error("the server of {name} does not speak first, and the guest's protocol shows no name")]
    ServerSilent { name: DomainName },
    #[error("the server of {name} can't be used: {what}")]
    Upstream { name: DomainName, what: String },
}

impl Denial {
    /// Every label that [`Denial::rule`] returns, in the order of the variants. Journals index their counters by it.
    pub const RULES: &[&str] = &[
        "deny_all",
        "name",
        "not_a_name",
        "address",
        "packet",
        "no_name",
        "encrypted_hello",
        "malformed",
        "authority",
        "query_type",
        "too_many",
        "slow",
        "unresolved",
        "server_silent",
        "upstream",
    ];

    /// Refuses a text that a guest has sent in the place of a domain name.
    pub fn not_a_name(text: &str) -> Self {
        // Quoted as it is, a text with line breaks would forge lines of the log.
        Denial::NotAName { text: one_line(text, QUOTED_MAX) }
    }

    /// The label in metrics and logs. Labels are stable: operators' alerts and the documentation name them.
    pub fn rule(&self) -> &'static str {
        match self {
            Denial::DenyAll => "deny_all",
            Denial::Name { .. } => "name",
            Denial::NotAName { .. } => "not_a_name",
            Denial::Address { .. } => "address",
            Denial::Packet { .. } => "packet",
            Denial::NoName => "no_name",
            Denial::EncryptedHello => "encrypted_hello",
            Denial::Malformed { .. } => "malformed",
            Denial::Authority { .. } => "authority",
            Denial::QueryType { .. } => "query_type",
            Denial::TooMany { .. } => "too_many",
            Denial::Slow { .. } => "slow",
            Denial::Unresolved { .. } => "unresolved",
            Denial::ServerSilent { .. } => "server_silent",
            Denial::Upstream { .. } => "upstream",
        }
    }
}
