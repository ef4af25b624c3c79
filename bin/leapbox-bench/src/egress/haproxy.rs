//! haproxy as it would stand in the opaque proxy's place: TCP mode, the backend by the ClientHello's SNI, one thread per
//! core.

use super::netns::Process;
use super::scratch::Scratch;
use super::world::{DIALLED_BY_PROXY, PLAIN_GATEWAY, SERVER, STREAM_PORT};
use super::{EgressError, OPAQUE, io};
use crate::rival::Rival;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// For a proxy to listen.
pub(super) const START: Duration = Duration::from_secs(5);

/// Starts haproxy in the calling thread's namespace and returns it with its version, or says why there is none.
pub(super) fn start(scratch: &Scratch) -> Result<Rival<Process>, EgressError> {
    let version = match Command::new("haproxy").arg("-v").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Rival::Missing("haproxy is not installed: nothing to compare with".to_owned()));
        }
        Err(error) => return Err(io("asking haproxy for its version")(error)),
    };
    // "HAProxy version 2.6.12-1 2026/10/17 - https://haproxy.org/"
    let version = version.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    let file = scratch.folder().join("haproxy.cfg");
    scratch.write(&file, &configuration())?;
    let child = Command::new("haproxy")
        .args(["-db", "-q", "-f"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(io("starting haproxy"))?;
    let mut process = Process(child);
    Ok(match wait(&mut process, STREAM_PORT) {
        None => Rival::Running(process, version),
        Some(why) => Rival::Missing(why),
    })
}

/// Waits until a proxy listens at the root namespace's address, or says why it does not.
pub(super) fn wait(process: &mut Process, port: u16) -> Option<String> {
    let deadline = Instant::now() + START;
    while TcpStream::connect((PLAIN_GATEWAY, port)).is_err() {
        if let Ok(Some(status)) = process.0.try_wait() {
            return Some(format!("ended with {status}"));
        }
        if Instant::now() > deadline {
            return Some(format!("not listening after {} s", START.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
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
