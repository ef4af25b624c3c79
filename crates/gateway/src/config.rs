//! The gateway's configuration, and the limits to which it holds clients and sandboxes.
//!
//! `leapbox serve` sets the domain and keeps the default limits; tests shorten them.

use std::num::NonZero;
use std::time::Duration;

/// The domain that the gateway serves, its threads and its limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// The domain under which sandboxes are addressed, in lower case and without a port: `sandbox.localhost`.
    pub domain: String,
    /// Number of threads that serve connections, at least 1; by default one per core.
    pub workers: usize,
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

/// Bounds on what one client, one sandbox and all of them together may hold. Durations bound how long something may
/// take or stand still.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections at once; one counts until its tunnels have ended, too. Past it, a request is answered 503.
    pub max_connections: usize,
    /// Requests at once on one HTTP/2 connection. It is announced to the client; a stream past it is refused.
    pub max_streams: u32,
    /// Requests and tunnels at once into one sandbox. Past it, 503.
    pub max_requests_per_sandbox: usize,
    /// Bytes of a request's or an answer's header section. Past it, 431 or 502.
    pub max_header_bytes: usize,
    /// Bytes of a request's body. Past it, 413.
    pub max_request_body: u64,
    /// Time for the whole TLS handshake. Past it, the connection is closed.
    pub tls_handshake: Duration,
    /// Time for a whole HTTP/1.1 request head. It bounds an idle keep-alive connection as well.
    pub header_read: Duration,
    /// Time to find the sandbox and, if it is paused, to wake it. Past it, 504; the wake goes on.
    pub wake: Duration,
    /// Time for the application to accept a connection. Past it, 504.
    pub connect: Duration,
    /// Time from the end of the upload to the head of the application's answer. Past it, 504.
    pub response_head: Duration,
    /// A connection with open requests on which no body byte moves for this long is closed.
    pub stream_idle: Duration,
    /// A connection without an open request is asked to end after this.
    pub keep_alive_idle: Duration,
    /// A WebSocket on which no byte moves for this long is closed.
    pub websocket_idle: Duration,
    /// Time for open requests and tunnels to end after shutdown was asked for. Past it, they are closed.
    pub drain: Duration,
    /// An idle connection to an application is closed after this.
    pub pool_idle: Duration,
    /// Idle connections kept for one port of one sandbox, per worker.
    pub pool_per_port: usize,
    /// Idle connections kept over all sandboxes.
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
            // Below the guest client's 15 s for it, so that this limit comes first and its answer names the port.
            connect: Duration::from_secs(10),
            response_head: Duration::from_secs(300),
            // A command behind the gateway moves no byte while it runs, so this also bounds its time (docs/api.md).
            stream_idle: Duration::from_secs(600),
            keep_alive_idle: Duration::from_secs(75),
            // The contract's.
            websocket_idle: Duration::from_secs(300),
            drain: Duration::from_secs(30),
            // Short, because an idle connection holds one of the 224 permits that a sandbox's agent has for commands
            // and connections together.
            pool_idle: Duration::from_secs(20),
            pool_per_port: 32,
            pool_total: 1024,
        }
    }
}
