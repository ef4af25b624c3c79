//! The interface through which a client reaches its guest's agent. `bases` implements it over a slot's network
//! namespace.

use async_trait::async_trait;
use std::io;
use tokio::net::TcpStream;

/// Opens connections to one guest's agent: the socket is made inside the sandbox's network namespace.
#[async_trait]
pub trait Dial: Send + Sync {
    /// Opens a new connection to the agent's port. The future may be dropped at any time, because calls have deadlines.
    async fn dial(&self) -> io::Result<TcpStream>;
}
