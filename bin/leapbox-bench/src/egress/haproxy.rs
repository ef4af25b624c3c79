//! haproxy as it would stand in the opaque proxy's place: TCP mode, the backend by the ClientHello's SNI, one thread per
//! core.

use super::OPAQUE;
use super::world::{DIALLED_BY_PROXY, PLAIN_GATEWAY, SERVER, STREAM_PORT};
use crate::rival::Rival;
use crate::scratch::Scratch;
use anyhow::Result;
use std::process::Command;

pub(super) fn start(scratch: &Scratch) -> Result<Rival> {
    let file = scratch.folder().join("haproxy.cfg");
    scratch.write(&file, &configuration())?;
    let mut command = Command::new("haproxy");
    Rival::start(command.args(["-db", "-q", "-f"]).arg(&file), (PLAIN_GATEWAY, STREAM_PORT).into())
}

fn configuration() -> String {
    let ports = [DIALLED_BY_PROXY, STREAM_PORT].map(|port| {
        format!(
            "
frontend in{port}
    bind {PLAIN_GATEWAY}:{port}
    tcp-request inspect-delay 10s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend out{port} if {{ req.ssl_sni -i {OPAQUE} }}

backend out{port}
    server upstream {SERVER}:{port}
"
        )
    });
    let [answers, streams] = ports;
    format!(
        "global
    maxconn 4096

defaults
    mode tcp
    timeout connect 10s
    timeout client 1m
    timeout server 1m
{answers}{streams}"
    )
}
