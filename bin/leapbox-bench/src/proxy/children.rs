//! The processes of a run, and what they used.

use super::load::LoadResult;
use super::{CONNECTIONS, Figures};
use crate::process::{Process, parse, this_program};
use crate::scratch::Scratch;
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

/// A proxy that runs.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    pub(super) host: String,
    pub(super) key: String,
    pub(super) process: Process,
}

pub(super) fn start_gateway(scratch: &Scratch, application: SocketAddr) -> Result<Proxy> {
    let mut command = this_program()?;
    command.arg("gateway").arg("--certificate").arg(scratch.certificate()).arg("--key").arg(scratch.key());
    command.arg("--database").arg(scratch.folder().join("keys.db"));
    command.args(["--application", &application.to_string()]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting the gateway")?;
    let mut process = Process(child);
    let said = process.first_line().context("reading the gateway's address")?;
    let [address, host, key] = said.split_whitespace().collect::<Vec<_>>()[..] else {
        bail!("the gateway process said {said:?}");
    };
    let address = address.parse().with_context(|| format!("the gateway process said {said:?}"))?;
    Ok(Proxy { address, host: host.to_owned(), key: key.to_owned(), process })
}

/// One round against one proxy.
pub(super) fn load_once(scratch: &Scratch, proxy: &Proxy, answer_bytes: usize, round: Duration) -> Result<Figures> {
    let before = cpu_us(proxy.process.0.id());
    let output = this_program()?
        .args(["load", "--address", &proxy.address.to_string(), "--host", &proxy.host, "--key", &proxy.key])
        .arg("--certificate")
        .arg(scratch.authority())
        .args(["--answer-bytes", &answer_bytes.to_string(), "--connections", &CONNECTIONS.to_string()])
        .args(["--ms", &round.as_millis().to_string()])
        .stderr(Stdio::inherit())
        .output()
        .context("running the load")?;
    let used = cpu_us(proxy.process.0.id()).saturating_sub(before);
    let result: LoadResult = parse("load", &output.stdout)?;
    let requests_per_s = result.requests as f64 / result.seconds;
    Ok(Figures {
        requests_per_s,
        mib_per_s: requests_per_s * answer_bytes as f64 / f64::from(1 << 20),
        cpu_us_per_request: used as f64 / result.requests.max(1) as f64,
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
