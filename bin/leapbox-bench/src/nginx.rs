//! nginx, beside which the gateway and a transform are measured: one worker per core. Where its defaults would only slow
//! it down (answers through temporary files, reconnects after 1000 requests, an access log), they are set otherwise.

use crate::rival::Rival;
use crate::scratch::Scratch;
use anyhow::Result;
use nix::unistd::geteuid;
use std::net::SocketAddr;
use std::process::Command;

/// Starts it with the certificate of `scratch` and these `upstream` and `server` blocks, one of which listens there.
pub fn start(scratch: &Scratch, blocks: &str, listens: SocketAddr) -> Result<Rival> {
    let folder = scratch.folder();
    let (file, log) = (folder.join("nginx.conf"), folder.join("nginx.log"));
    scratch.write(&file, &configuration(scratch, blocks))?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-e").arg(&log).arg("-c").arg(&file);
    let rival = Rival::start(&mut command, listens)?;
    Ok(match (rival, std::fs::read_to_string(&log)) {
        (Rival::Missing(why), Ok(log)) => Rival::Missing(format!("{why}: {}", log.trim())),
        (rival, _) => rival,
    })
}

fn configuration(scratch: &Scratch, blocks: &str) -> String {
    // As root nginx would give its workers a user who cannot use the scratch folder.
    let user = if geteuid().is_root() { "user root;" } else { "" };
    let (folder, certificate, key) = (scratch.folder().display(), scratch.certificate(), scratch.key());
    let (certificate, key) = (certificate.display(), key.display());
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
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    proxy_http_version 1.1;
    proxy_max_temp_file_size 0;
    proxy_buffer_size 16k;
    proxy_buffers 16 64k;
    proxy_busy_buffers_size 256k;
{blocks}}}
"
    )
}
