//! The proxy over real sockets, with real redirection, in network namespaces of the tests' own. Run as root.

mod limits;
mod nameless;
mod opaque;
mod plain;
mod support;
mod tls;
