//! The gateway over real TLS, with real HTTP clients, keys and applications, all on loopback.

mod forwarding;
mod hostile;
mod hosts;
mod keys;
mod limits;
mod pool;
mod streaming;
mod support;
mod websocket;
