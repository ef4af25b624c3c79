//! nginx as it would stand in a transform's place: it terminates TLS, sets a header, and proxies to the server over TLS
//! that it verifies. One worker per core.
//!
//! It has two ports: one keeps connections to the server for later requests, as a plain proxy would, the other makes one
//! for every connection of a client, as a transform must (a sandbox's connections are its own).

use super::haproxy::{START, wait};
use super::netns::Process;
use super::scratch::Scratch;
use super::world::{HTTPS_PORT, PLAIN_GATEWAY, SERVER};
use super::{EgressError, TRANSFORMED, io};
use crate::rival::Rival;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::ErrorKind;
use std::process::{Command, Stdio};

/// Keeps connections to the server.
pub(super) const KEPT_PORT: u16 = 443;
/// Makes a connection to the server for each of the client's.
pub(super) const FRESH_PORT: u16 = 444;

/// nginx's master process.
pub(super) struct Master(Process);

impl Drop for Master {
    fn drop(&mut self) {
        // Not a kill: that would leave the workers behind.
        let told = i32::try_from(self.0.0.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        if !matches!(told, Ok(Ok(()))) {
            return tracing::warn!(?told, "could not tell nginx to end");
        }
        let deadline = std::time::Instant::now() + START;
        while matches!(self.0.0.try_wait(), Ok(None)) && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Starts nginx in the calling thread's namespace and returns it with its version, or says why there is none.
pub(super) fn start(scratch: &Scratch) -> Result<Rival<Master>, EgressError> {
    let version = match Command::new("nginx").arg("-v").output() {
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Rival::Missing("nginx is not installed: nothing to compare with".to_owned()));
        }
        Err(error) => return Err(io("asking nginx for its version")(error)),
    };
    let (file, log) = (scratch.folder().join("nginx.conf"), scratch.folder().join("nginx.log"));
    scratch.write(&file, &configuration(scratch))?;
    let child = Command::new("nginx")
        .arg("-p")
        .arg(scratch.folder())
        .arg("-e")
        .arg(&log)
        .arg("-c")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(io("starting nginx"))?;
    let mut master = Master(Process(child));
    if let Some(why) = wait(&mut master.0, FRESH_PORT) {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        return Ok(Rival::Missing(format!("{version} did not start: {why}: {}", log.trim())));
    }
    Ok(Rival::Running(master, version))
}

fn server(port: u16, pass: &str, connection: &str, scratch: &Scratch) -> String {
    let (folder, authority) = (scratch.folder().display(), scratch.authority());
    let authority = authority.display();
    format!(
        "
    server {{
        listen {PLAIN_GATEWAY}:{port} ssl;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
        location / {{
            proxy_pass https://{pass};
            proxy_http_version 1.1;
            proxy_ssl_protocols TLSv1.2 TLSv1.3;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {authority};
            proxy_ssl_server_name on;
            proxy_ssl_name {TRANSFORMED};
            proxy_max_temp_file_size 0;
            proxy_buffer_size 16k;
            proxy_buffers 16 64k;
            proxy_busy_buffers_size 256k;
            proxy_set_header Host $http_host;
            proxy_set_header Connection \"{connection}\";
            proxy_set_header X-Bench 0123456789abcdef;
        }}
    }}
"
    )
}

fn configuration(scratch: &Scratch) -> String {
    let folder = scratch.folder().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {folder}/{kind};\n"))
        .concat();
    let kept = server(KEPT_PORT, "kept", "", scratch);
    let fresh = server(FRESH_PORT, "fresh", "close", scratch);
    // As root nginx would give its workers a user who cannot use the scratch folder.
    format!(
        "user root;
daemon off;
pid {folder}/nginx.pid;
worker_processes auto;
events {{ worker_connections 1024; }}
http {{
{temporary}    access_log off;
    keepalive_requests 1000000000;
    upstream kept {{
        server {SERVER}:{HTTPS_PORT};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    upstream fresh {{
        server {SERVER}:{HTTPS_PORT};
    }}
{kept}{fresh}}}
"
    )
}
