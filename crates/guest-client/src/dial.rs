//! The way to a guest's agent, which whoever runs the sandbox gives.

use async_trait::async_trait;
use std::io;
use tokio::net::TcpStream;

/// Opens connections to one guest's agent: the socket is made inside the sandbox's network namespace.
#[async_trait]
pub trait Dial: Send + Sync {
    /// A new connection to the agent's port. The future may be dropped at any time.
    async fn dial(&self) -> io::Result<TcpStream>;
}
