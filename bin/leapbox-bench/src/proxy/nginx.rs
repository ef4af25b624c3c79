//! nginx as it would stand in the gateway's place: TLS with the same certificate, kept connections to the application,
//! one worker per core. Where its defaults would only slow it down (answers through temporary files, reconnects after
//! 1000 requests, an access log), they are set otherwise.

use super::ProxyError;
use super::Scratch;
use super::children::{Proxy, Running};
use crate::rival::Rival;
use leapbox_errors::chain;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For nginx to listen.
const START: Duration = Duration::from_secs(5);

/// nginx's master process.
pub(super) struct Master(Child);

impl Drop for Master {
    fn drop(&mut self) {
        // Not a kill: that would leave the workers behind.
        let pid = i32::try_from(self.0.id()).map(Pid::from_raw);
        match pid.map(|pid| kill(pid, Signal::SIGTERM)) {
            Ok(Ok(())) => {}
            failed => tracing::warn!(?failed, "could not tell nginx to end"),
        }
        if let Err(error) = self.0.wait() {
            tracing::warn!(error = %chain(&error), "could not wait for nginx");
        }
    }
}

/// Starts nginx and returns it with its version, or says why there is none.
pub(super) async fn start(
    scratch: &Scratch,
    application: SocketAddr,
    gateway: &Proxy,
) -> Result<Rival<Proxy>, ProxyError> {
    let version = match Command::new("nginx").arg("-v").output() {
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Rival::Missing("nginx is not installed: nothing to compare with".to_owned()));
        }
        Err(error) => return Err(ProxyError::io("asking nginx for its version")(error)),
    };
    let folder = scratch.as_ref();
    let address = free_address()?;
    let file = folder.join("nginx.conf");
    std::fs::write(&file, configuration(scratch, address, application))
        .map_err(ProxyError::io("writing nginx's configuration"))?;
    let child = Command::new("nginx")
        .arg("-p")
        .arg(folder)
        .arg("-e")
        .arg(folder.join("error.log"))
        .arg("-c")
        .arg(&file)
        .stdin(Stdio::null())
        .spawn()
        .map_err(ProxyError::io("starting nginx"))?;
    let mut master = Master(child);
    if let Some(why) = wait(&mut master, address).await {
        let log = std::fs::read_to_string(folder.join("error.log")).unwrap_or_default();
        return Ok(Rival::Missing(format!("{version} did not start: {why}: {}", log.trim())));
    }
    let pid = master.0.id();
    let (host, key) = (gateway.host.clone(), gateway.key.clone());
    Ok(Rival::Running(Proxy { address, host, key, pid, _running: Running::Nginx { _master: master } }, version))
}

/// Why nginx does not listen; nothing once it does.
async fn wait(master: &mut Master, address: SocketAddr) -> Option<String> {
    let deadline = Instant::now() + START;
    loop {
        if let Ok(Some(status)) = master.0.try_wait() {
            return Some(status.to_string());
        }
        if TcpStream::connect(address).is_ok() {
            return None;
        }
        if Instant::now() > deadline {
            return Some(format!("not listening after {} s", START.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn free_address() -> Result<SocketAddr, ProxyError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(ProxyError::io("finding a port for nginx"))?;
    listener.local_addr().map_err(ProxyError::io("finding a port for nginx"))
}

fn configuration(scratch: &Scratch, address: SocketAddr, application: SocketAddr) -> String {
    // As root nginx would give its workers a user who cannot use the scratch folder.
    let user = if geteuid().is_root() { "user root;" } else { "" };
    let folder = scratch.as_ref().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {folder}/{kind};\n"))
        .concat();
    format!(
        "{user}
daemon off;
pid {folder}/nginx.pid;
worker_processes auto;
events {{ worker_connections 1024; }}
http {{
{temporary}    access_log off;
    keepalive_requests 1000000000;
    upstream application {{
        server {application};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address} ssl;
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
        location / {{
            proxy_pass http://application;
            proxy_http_version 1.1;
            proxy_max_temp_file_size 0;
            proxy_buffer_size 16k;
            proxy_buffers 16 64k;
            proxy_busy_buffers_size 256k;
            proxy_set_header Host $http_host;
            proxy_set_header Connection \"\";
            proxy_set_header Authorization \"\";
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Proto https;
        }}
    }}
}}
"
    )
}
