//! One machine under test: the VMM, the guest in it, and where it is on the host.

use crate::waiting::{PATIENCE, eventually};
use leapbox_guest_client::{GuestClient, GuestError};
use leapbox_guest_protocol::{Configure, Entropy, ExecOutput, ExecRequest, Identity};
use leapbox_vmm::{Confinement, Machine, Snapshot};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How late a guest's clock may be when it is handed over, and how often that is tried: as in the lifecycle.
const CLOCK_MAX_LATE: Duration = Duration::from_secs(1);
const CONFIGURE_ATTEMPTS: usize = 5;
/// Counts in the guest's memory, ten times a second.
const HEART: &str = "n=0; while :; do n=$((n+1)); echo $n > /dev/shm/beat; sleep 0.1; done";

#[derive(Clone)]
pub struct Vm {
    pub machine: Arc<Machine>,
    pub guest: GuestClient,
    /// What it was started from; a booted machine was started from nothing.
    pub snapshot: Option<Arc<Snapshot>>,
    pub disk: PathBuf,
    pub confinement: Confinement,
}

impl Vm {
    pub fn pid(&self) -> i32 {
        self.machine.record().pid
    }

    /// The host name `configure` gives it.
    pub fn hostname(&self) -> String {
        format!("sbx-{}", self.confinement.name)
    }

    /// Makes it a sandbox, as the lifecycle does: fresh randomness, the right time, an identity of its own.
    pub async fn configure(&self) {
        self.tell(Some(new_identity()), Some(Vec::new()), false).await;
    }

    /// Makes what was restored with changes another sandbox than the one they were taken of.
    pub async fn configure_restored(&self) {
        self.tell(Some(new_identity()), None, true).await;
    }

    /// Lets what was restored with changes go on as the sandbox it was.
    pub async fn go_on(&self) {
        self.tell(None, None, true).await;
    }

    async fn tell(&self, identity: Option<Identity>, env: Option<Vec<(String, String)>>, restored: bool) {
        let mut entropy = [0; 64];
        getrandom::fill(&mut entropy).expect("randomness");
        let (hostname, entropy) = (self.hostname(), Entropy(entropy));
        let mut configure =
            Configure { hostname, entropy, wall_clock_unix_ns: 0, identity, env, restored, trust: None };
        for _ in 0..CONFIGURE_ATTEMPTS {
            let told = Instant::now();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            configure.wall_clock_unix_ns = u64::try_from(now.as_nanos()).expect("before 2554");
            self.guest.configure(configure.clone()).await.expect("the guest confirms who it is");
            // The time it was told is as old as the exchange was long.
            if told.elapsed() < CLOCK_MAX_LATE {
                return;
            }
        }
        panic!("{} cannot be told the time: every exchange takes too long", self.hostname());
    }

    /// Runs a command as the image's user and tells how it ended.
    pub async fn exec(&self, command: &str) -> Result<ExecOutput, GuestError> {
        self.run(command, Vec::new()).await
    }

    /// Runs a command that must succeed; what it printed.
    pub async fn sh(&self, command: &str) -> String {
        self.succeed(command, Vec::new()).await
    }

    /// The same as the guest's root.
    pub async fn root(&self, script: &str) -> String {
        self.succeed("sudo sh -c \"$SCRIPT\"", vec![("SCRIPT".to_owned(), script.to_owned())]).await
    }

    /// Starts something as the guest's root that goes on after the call.
    pub async fn start(&self, script: &str) {
        let detached = "setsid sudo sh -c \"$SCRIPT\" >/dev/null 2>&1 </dev/null &";
        self.succeed(detached, vec![("SCRIPT".to_owned(), script.to_owned())]).await;
    }

    /// Starts a process that counts, and waits for its first count.
    pub async fn start_heart(&self) {
        self.start(HEART).await;
        eventually("the heart beats", PATIENCE, async || self.sh("cat /dev/shm/beat || true").await.len() > 1).await;
    }

    /// How far that process has counted.
    pub async fn beat(&self) -> u64 {
        // It may be just writing.
        let count = self.sh("until read n < /dev/shm/beat && [ -n \"$n\" ]; do :; done; echo $n").await;
        count.trim().parse().expect("a number")
    }

    /// Waits until that process has counted on.
    pub async fn lives_on(&self, last_beat: u64) {
        eventually("the heart beats on", PATIENCE, async || self.beat().await > last_beat).await;
    }

    /// SHA-256 of a file in the guest.
    pub async fn hash(&self, path: &str) -> String {
        self.sh(&format!("sha256sum < {path}")).await
    }

    async fn succeed(&self, command: &str, env: Vec<(String, String)>) -> String {
        let output = self.run(command, env.clone()).await;
        let output = output.unwrap_or_else(|error| panic!("{command:?} {env:?} in {}: {error:?}", self.hostname()));
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.exit_code, 0, "{command:?} {env:?} in {}: {stdout}{stderr}", self.hostname());
        stdout.into_owned()
    }

    async fn run(&self, command: &str, env: Vec<(String, String)>) -> Result<ExecOutput, GuestError> {
        let timeout_ms = u32::try_from(PATIENCE.as_millis()).expect("a minute");
        let command = command.to_owned();
        self.guest.exec(ExecRequest { command, cwd: None, env, timeout_ms, output_limit: 1 << 20 }).await
    }
}

fn new_identity() -> Identity {
    Identity { machine_id: uuid(), boot_id: uuid() }
}

/// A random UUID (RFC 9562, version 4), as machine ids and boot ids are.
fn uuid() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("randomness");
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}
