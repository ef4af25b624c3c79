//! A server to measure: `serve` of the `leapbox` beside this program, with a state of its own and the installation's
//! artifacts.

use crate::client::Client;
use anyhow::{Context, Result, bail};
use leapbox::config::Config;
use leapbox::state::State;
use leapbox::verbs::setup::{first_key, local_ca};
use leapbox_errors::FileError;
use leapbox_vmm::{Cgroups, Snapshot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

const READY_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// Bytes of the log shown when the server ends unasked.
const LOG_TAIL: usize = 4096;
/// Apart from that of a server that may be running on this host, and from the one measured before, whose links the
/// kernel may still be taking down.
fn link_block(pool: u32) -> &'static str {
    if pool == 0 { "10.252.0.0/16" } else { "10.250.0.0/16" }
}
const BASE_UID: &str = "3000000";

/// A running server. Its folder is removed by [`Server::stop`].
pub struct Server {
    process: Child,
    dir: PathBuf,
    api: SocketAddr,
    metrics: SocketAddr,
    key: String,
}

impl Server {
    /// Starts it with a pool of `pool` clones and waits until it answers.
    pub async fn start(config: &Config, pool: u32) -> Result<Self> {
        let dir = config.data_dir.join(format!("bench-{}", std::process::id()));
        let state = State::at(dir.join("state"));
        let key = prepare(&state, &config.domain).await.context("preparing the measured server's state")?;
        let [api, gateway, metrics] = free_addresses().map_err(FileError::of("finding a free port on", "127.0.0.1"))?;
        let process = spawn(config, &dir, pool, [api, gateway, metrics])?;
        let mut server = Self { process, dir, api, metrics, key };
        match server.answers().await {
            Ok(()) => Ok(server),
            Err(error) => {
                let _ = server.stop().await;
                Err(error)
            }
        }
    }

    async fn answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_DEADLINE;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.process.try_wait() {
                let log = std::fs::read_to_string(log_path(&self.dir)).unwrap_or_default();
                let log = log.chars().skip(log.chars().count().saturating_sub(LOG_TAIL)).collect::<String>();
                bail!("the measured server ended with {status}; its log:\n{log}");
            }
            if self.client().text(self.api, "/healthz").await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("the measured server did not get ready (its first answer)")
    }

    pub fn client(&self) -> Client {
        Client::new(self.api, &self.key)
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The first base it has taken.
    pub fn warm_snapshot(&self) -> Result<Arc<Snapshot>> {
        let warm = self.state_dir().join("warm");
        let mut stored = leapbox_bases::Bases::stored(&warm).into_iter();
        Ok(stored.next().context("the measured server did not get ready (its base)")?.snapshot)
    }

    /// Bytes of the one checkpoint there is, before and after compression, as its manifest has them.
    pub fn only_checkpoint(&self) -> Result<(u64, u64)> {
        let dir = State::at(self.state_dir()).archives_dir();
        let entries = std::fs::read_dir(&dir).map_err(FileError::of("listing", &dir))?.flatten();
        let checkpoint = entries
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ckp-")));
        let checkpoint = checkpoint.context("the measured server did not get ready (its checkpoint)")?;
        let path = checkpoint.join("manifest.json");
        let text = std::fs::read(&path).map_err(FileError::of("reading", &path))?;
        let manifest: serde_json::Value = serde_json::from_slice(&text).map_err(FileError::of("reading", &path))?;
        let parts = manifest["content"]["parts"].as_object().into_iter().flatten().map(|(_, part)| part);
        let bytes = |part: &serde_json::Value, name: &str| part["stats"][name].as_u64().unwrap_or(0);
        Ok(parts.fold((0, 0), |(plain, stored), part| {
            (plain + bytes(part, "plain_bytes"), stored + bytes(part, "stored_bytes"))
        }))
    }

    /// Waits until at least `count` clones are ready in the pool.
    pub async fn pool_ready(&self, count: u32, deadline: Duration) -> Result<()> {
        let client = self.client();
        let deadline = Instant::now() + deadline;
        while Instant::now() < deadline {
            let metrics = client.text(self.metrics, "/metrics").await?;
            let ready = metrics.lines().find_map(|line| line.strip_prefix("leapbox_pool_ready "));
            if ready.and_then(|value| value.parse::<u32>().ok()).is_some_and(|ready| ready >= count) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("the measured server did not get ready (its pool)")
    }

    /// Sandboxes outlive their server, which a measurement that failed half-way must not mean for ever.
    async fn end_machines(&self) {
        let Ok(instance) = State::at(self.state_dir()).instance() else { return };
        let groups = Cgroups::open(Path::new("/sys/fs/cgroup"), &instance);
        let deadline = Instant::now() + STOP_DEADLINE;
        for name in groups.names() {
            groups.named(&name).kill();
            while groups.named(&name).remove().is_err() && Instant::now() < deadline {
                tokio::time::sleep(POLL).await;
            }
        }
        groups.remove_if_empty();
    }

    pub fn vmm_pids(&self) -> Result<Vec<i32>> {
        let instance = State::at(self.state_dir()).instance()?;
        let groups = Cgroups::open(Path::new("/sys/fs/cgroup"), &instance);
        Ok(groups.names().iter().flat_map(|name| groups.named(name).pids()).collect())
    }

    /// Ends it and removes everything of it.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.process.id() {
            // A server that has ended already is what we want.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
        if tokio::time::timeout(STOP_DEADLINE, self.process.wait()).await.is_err() {
            let _ = self.process.start_kill();
        }
        self.end_machines().await;
        Ok(std::fs::remove_dir_all(&self.dir).map_err(FileError::of("removing", &self.dir))?)
    }
}

/// Gives the server a certificate and a key, which it returns.
async fn prepare(state: &State, domain: &str) -> Result<String> {
    state.create()?;
    local_ca::ensure(&state.tls_dir(), domain, time::OffsetDateTime::now_utc())?;
    let own = state.clone();
    // It has a runtime of its own inside.
    tokio::task::spawn_blocking(move || first_key::ensure(&own)).await??;
    Ok(state.read_default_key()?.unwrap_or_default())
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("server.log")
}

fn spawn(config: &Config, dir: &Path, pool: u32, addresses: [SocketAddr; 3]) -> Result<Child> {
    let own = std::env::current_exe().map_err(FileError::of("finding", "our own program"))?;
    let program = own.with_file_name("leapbox");
    let log = log_path(dir);
    let output = File::create(&log).map_err(FileError::of("creating", &log))?;
    let [api, gateway, metrics] = addresses.map(|address| address.to_string());
    let started = Command::new(&program)
        .args(["serve", "--data-dir"])
        .arg(dir)
        .arg("--artifacts-dir")
        .arg(&config.artifacts_dir)
        .args(["--api", &api, "--gateway", &gateway, "--metrics", &metrics])
        .args(["--driver", config.driver.as_str()])
        .args(["--pool-size", &pool.to_string(), "--rate-limit", "0"])
        .args(["--link-block", link_block(pool), "--base-uid", BASE_UID])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .kill_on_drop(true)
        .spawn();
    Ok(started.map_err(FileError::of("starting", &program))?)
}

/// Three ports that are free now on 127.0.0.1.
fn free_addresses() -> std::io::Result<[SocketAddr; 3]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners = [bind()?, bind()?, bind()?];
    let address = |listener: &TcpListener| listener.local_addr();
    Ok([address(&listeners[0])?, address(&listeners[1])?, address(&listeners[2])?])
}
