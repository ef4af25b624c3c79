//! nginx as it would stand in the gateway's place: TLS with the same certificate, kept connections to the application.

use super::children::Proxy;
use crate::nginx;
use crate::rival::Rival;
use crate::scratch::Scratch;
use anyhow::{Context, Result};
use std::net::{SocketAddr, TcpListener};

/// nginx with its version, or nothing and why.
pub(super) fn start(scratch: &Scratch, application: SocketAddr, gateway: &Proxy) -> Result<(Option<Proxy>, String)> {
    let address = free_address().context("finding a port for nginx")?;
    Ok(match nginx::start(scratch, &blocks(address, application), address)? {
        Rival::Running(process, version) => {
            let (host, key) = (gateway.host.clone(), gateway.key.clone());
            (Some(Proxy { address, host, key, process }), version)
        }
        Rival::Missing(why) => (None, why),
    })
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn blocks(address: SocketAddr, application: SocketAddr) -> String {
    format!(
        "
    upstream application {{
        server {application};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address} ssl;
        location / {{
            proxy_pass http://application;
            proxy_set_header Host $http_host;
            proxy_set_header Connection \"\";
            proxy_set_header Authorization \"\";
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Proto https;
        }}
    }}
"
    )
}
