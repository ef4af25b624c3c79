//! What the gateway is told, and the limits it holds everyone to.

use std::num::NonZero;
use std::time::Duration;

/// What the gateway serves, and how much of it.
#[derive(Debug, Clone)]
pub struct Config {
    /// The domain sandboxes are addressed under, without port: `sandbox.localhost`.
    pub domain: String,
    /// Threads that serve connections, at least 1; by default one per core.
    pub workers: usize,
    /// Limits; the defaults suit one machine.
    pub limits: Limits,
}

impl Config {
    /// The default limits for a domain. Case and a trailing dot of `domain` do not matter.
    pub fn new(domain: &str) -> Self {
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self { domain, workers, limits: Limits::default() }
    }
}

/// Bounds on what one client, one sandbox and all together may hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections and tunnels at once. Past it, a request is answered 503.
    pub max_connections: usize,
    /// Requests at once on one HTTP/2 connection.
    pub max_streams: u32,
    /// Requests and tunnels at once into one sandbox. Past it, 503.
    pub max_requests_per_sandbox: usize,
    /// Bytes of a request's or an answer's header section. Past it, 431 or 502.
    pub max_header_bytes: usize,
    /// Bytes of a request's body. Past it, 413.
    pub max_request_body: u64,
    /// For the whole TLS handshake.
    pub tls_handshake: Duration,
    /// For a whole HTTP/1.1 request head; it bounds an idle keep-alive connection as well.
    pub header_read: Duration,
    /// For finding the sandbox and, if it sleeps, waking it. Past it, 504.
    pub wake: Duration,
    /// For the application to accept a connection. Past it, 504.
    pub connect: Duration,
    /// From the end of the upload to the head of the application's answer. Past it, 504.
    pub response_head: Duration,
    /// A connection on which requests are open and no body byte moves for so long is cut.
    pub stream_idle: Duration,
    /// A connection without any open request is closed after this.
    pub keep_alive_idle: Duration,
    /// A WebSocket on which no byte moves for so long is closed.
    pub websocket_idle: Duration,
    /// How long open requests and tunnels may go on after shutdown was asked for.
    pub drain: Duration,
    /// An unused connection to an application is closed after this.
    pub pool_idle: Duration,
    /// Unused connections kept for one port of one sandbox, per worker.
    pub pool_per_port: usize,
    /// Unused connections kept in all.
    pub pool_total: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_streams: 128,
            max_requests_per_sandbox: 1024,
            max_header_bytes: 64 * 1024,
            max_request_body: 5 * 1024 * 1024 * 1024,
            tls_handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(30),
            wake: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            response_head: Duration::from_secs(300),
            stream_idle: Duration::from_secs(600),
            keep_alive_idle: Duration::from_secs(75),
            websocket_idle: Duration::from_secs(300),
            drain: Duration::from_secs(30),
            pool_idle: Duration::from_secs(20),
            pool_per_port: 32,
            pool_total: 1024,
        }
    }
}
