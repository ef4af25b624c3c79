//! The processes of a run, and what they used.

use super::load::LoadResult;
use super::{CONNECTIONS, Figures, ProxyError, Scratch};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A proxy that runs.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    pub(super) host: String,
    pub(super) key: String,
    /// The process, or for nginx its master.
    pub(super) pid: u32,
    pub(super) _running: Running,
}

/// What ends with the proxy.
pub(super) enum Running {
    /// Killed when dropped.
    Gateway { _child: Child },
    /// Told to end when dropped, because its workers would outlive a kill.
    Nginx { _master: super::nginx::Master },
}

fn this_program() -> Result<PathBuf, ProxyError> {
    std::env::current_exe().map_err(ProxyError::io("finding this program"))
}

pub(super) async fn start_gateway(scratch: &Scratch, application: SocketAddr) -> Result<Proxy, ProxyError> {
    let mut child = Command::new(this_program()?)
        .arg("gateway")
        .arg("--certificate")
        .arg(scratch.certificate())
        .arg("--key")
        .arg(scratch.key())
        .arg("--database")
        .arg(scratch.as_ref().join("keys.db"))
        .arg("--application")
        .arg(application.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(ProxyError::io("starting the gateway"))?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        let read = BufReader::new(stdout).read_line(&mut said).await;
        read.map_err(ProxyError::io("reading the gateway's port"))?;
    }
    let bad = || ProxyError::Child { child: "gateway", said: said.clone() };
    let mut words = said.split_whitespace();
    let port: u16 = words.next().and_then(|port| port.parse().ok()).ok_or_else(bad)?;
    let (host, key) = words.next().zip(words.next()).ok_or_else(bad)?;
    let pid = child.id().ok_or_else(bad)?;
    Ok(Proxy {
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        host: host.to_owned(),
        key: key.to_owned(),
        pid,
        _running: Running::Gateway { _child: child },
    })
}

/// One round against one proxy.
pub(super) async fn load_once(
    scratch: &Scratch,
    proxy: &Proxy,
    answer_bytes: usize,
    round: Duration,
) -> Result<Figures, ProxyError> {
    let before = cpu_us(proxy.pid);
    let output = Command::new(this_program()?)
        .arg("load")
        .args(["--address", &proxy.address.to_string()])
        .args(["--host", &proxy.host])
        .args(["--key", &proxy.key])
        .arg("--certificate")
        .arg(scratch.certificate())
        .args(["--answer-bytes", &answer_bytes.to_string()])
        .args(["--connections", &CONNECTIONS.to_string()])
        .args(["--ms", &round.as_millis().to_string()])
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(ProxyError::io("running the load"))?;
    let used = cpu_us(proxy.pid).saturating_sub(before);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let result: LoadResult = serde_json::from_str(&said)
        .map_err(|_: serde_json::Error| ProxyError::Child { child: "load", said: said.clone() })?;
    let requests = result.requests.max(1) as f64;
    let requests_per_s = result.requests as f64 / result.seconds;
    Ok(Figures {
        requests_per_s,
        mib_per_s: requests_per_s * answer_bytes as f64 / f64::from(1 << 20),
        cpu_us_per_request: used as f64 / requests,
    })
}

/// Processor time of a process and its children, in µs. 0 where /proc has no answer.
fn cpu_us(pid: u32) -> u64 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let all = children.split_whitespace().filter_map(|child| child.parse().ok()).chain([pid]);
    let ticks: u64 = all.map(cpu_ticks).sum();
    // USER_HZ is 100 on every Linux there is.
    ticks * 10_000
}

fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may contain spaces; utime and stime are the 12th and 13th words after it.
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    after_name.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum()
}
