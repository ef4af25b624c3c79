//! nginx as it would stand in a transform's place: it terminates TLS, sets a header, and proxies to the server over TLS
//! that it verifies.
//!
//! It has two ports: one keeps connections to the server for later requests, as a plain proxy would, the other makes one
//! for every connection of a client, as a transform must (a sandbox's connections are its own).

use super::TRANSFORMED;
use super::world::{HTTPS_PORT, PLAIN_GATEWAY, SERVER};
use crate::nginx;
use crate::rival::Rival;
use crate::scratch::Scratch;
use anyhow::Result;

/// Keeps connections to the server.
pub(super) const KEPT_PORT: u16 = 443;
/// Makes a connection to the server for each of the client's.
pub(super) const FRESH_PORT: u16 = 444;

pub(super) fn start(scratch: &Scratch) -> Result<Rival> {
    let kept = server(KEPT_PORT, "kept", "", scratch);
    let fresh = server(FRESH_PORT, "fresh", "close", scratch);
    let blocks = format!(
        "
    upstream kept {{
        server {SERVER}:{HTTPS_PORT};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    upstream fresh {{
        server {SERVER}:{HTTPS_PORT};
    }}
{kept}{fresh}"
    );
    nginx::start(scratch, &blocks, (PLAIN_GATEWAY, FRESH_PORT).into())
}

fn server(port: u16, pass: &str, connection: &str, scratch: &Scratch) -> String {
    let authority = scratch.authority();
    let authority = authority.display();
    format!(
        "
    server {{
        listen {PLAIN_GATEWAY}:{port} ssl;
        ssl_protocols TLSv1.2 TLSv1.3;
        location / {{
            proxy_pass https://{pass};
            proxy_ssl_protocols TLSv1.2 TLSv1.3;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {authority};
            proxy_ssl_server_name on;
            proxy_ssl_name {TRANSFORMED};
            proxy_set_header Host $http_host;
            proxy_set_header Connection \"{connection}\";
            proxy_set_header X-Bench 0123456789abcdef;
        }}
    }}
"
    )
}
