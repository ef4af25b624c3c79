//! One living QEMU.

use super::args::{CONSOLE_BYTES, fd};
use super::file_error;
use super::qmp::Qmp;
use super::ram::log_text;
use super::start::SocketPath;
use crate::cgroup::Cgroup;
use crate::error::{ExitReason, VmmError};
use crate::machine::{Machine, MachineRecord, WarmSnapshot};
use crate::process::{Process, private_bytes};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::fs::File;
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a killed process may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
const KILL_POLL: Duration = Duration::from_millis(2);

/// What a machine consists of before its control connection.
pub(super) struct Parts {
    pub record: MachineRecord,
    pub process: Process,
    pub group: Cgroup,
    pub log: File,
    pub socket: SocketPath,
}

/// A running QEMU with an open control connection.
pub(super) struct QemuMachine {
    record: MachineRecord,
    process: Arc<Process>,
    group: Cgroup,
    qmp: Arc<Qmp>,
    /// Why it ended, once it has.
    exit: watch::Receiver<Option<ExitReason>>,
    /// Where its memory and state go; only a booted machine has it.
    snapshot: Option<WarmSnapshot>,
}

impl QemuMachine {
    /// Opens the control connection and starts watching the process. On failure nothing of the machine is left.
    pub async fn connect(parts: Parts, deadline: Duration) -> Result<Self, VmmError> {
        let Parts { record, process, group, log, socket } = parts;
        let path = socket.path();
        let connected = tokio::select! {
            biased;
            qmp = Qmp::connect(&path, deadline) => qmp,
            reason = process.exited() => Err(died("starting", reason, &log)),
        };
        let qmp = match connected {
            Ok(qmp) => Arc::new(qmp),
            Err(error) => {
                let error = explain_early_death(error, &process, &log).await;
                process.kill();
                clean_up(&group, &record.dir).await;
                // Reaps it.
                let _ = tokio::time::timeout(KILL_DEADLINE, process.exited()).await;
                return Err(error);
            }
        };
        let process = Arc::new(process);
        let (told, exit) = watch::channel(None);
        tokio::spawn(watch_exit(Arc::clone(&process), Arc::clone(&qmp), log, told));
        Ok(Self { record, process, group, qmp, exit, snapshot: None })
    }

    /// Remembers where the snapshot of this machine goes.
    pub fn booted_into(mut self, snapshot: WarmSnapshot) -> Self {
        self.snapshot = Some(snapshot);
        self
    }

    /// Loads the device state of a restored machine and lets its guest run.
    pub async fn load_state(&self) -> Result<(), VmmError> {
        self.while_alive("loading its state", async {
            self.ignore_shared_memory().await?;
            self.qmp.run("migrate-incoming", json!({"uri": format!("fd:{}", fd::STATE)})).await?;
            self.qmp.migrated("migrate-incoming").await?;
            self.qmp.run("cont", json!({})).await.map(drop)
        })
        .await
    }

    async fn save_state(&self, state: &File) -> Result<(), VmmError> {
        self.while_alive("saving its state", async {
            self.qmp.run("stop", json!({})).await?;
            self.ignore_shared_memory().await?;
            // Going out, QEMU takes no inherited number, only a descriptor that it was given by name.
            self.qmp.give_fd("state", state.as_fd()).await?;
            self.qmp.run("migrate", json!({"uri": "fd:state"})).await?;
            self.qmp.migrated("migrate").await
        })
        .await
    }

    /// RAM is not part of the migration stream: it is the file or the memfd.
    async fn ignore_shared_memory(&self) -> Result<(), VmmError> {
        let capabilities = json!([
            {"capability": "x-ignore-shared", "state": true},
            {"capability": "events", "state": true},
        ]);
        self.qmp.run("migrate-set-capabilities", json!({"capabilities": capabilities})).await.map(drop)
    }

    /// Runs `operation`, unless the process dies first; then that is the error.
    async fn while_alive(
        &self,
        stage: &'static str,
        operation: impl Future<Output = Result<(), VmmError>>,
    ) -> Result<(), VmmError> {
        tokio::select! {
            biased;
            result = operation => result,
            reason = self.exited() => Err(VmmError::Died { stage, reason }),
        }
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn record(&self) -> MachineRecord {
        self.record.clone()
    }

    fn netns(&self) -> Result<OwnedFd, VmmError> {
        let path = format!("/proc/{}/ns/net", self.record.pid);
        let fd = File::open(&path).map_err(|_| VmmError::NotAlive { pid: self.record.pid })?;
        Ok(fd.into())
    }

    async fn into_warm_snapshot(mut self: Box<Self>) -> Result<WarmSnapshot, VmmError> {
        let snapshot = self.snapshot.take().ok_or(VmmError::Refused {
            command: "snapshot".to_owned(),
            message: "only a machine that was booted for it has a RAM file".to_owned(),
        });
        let saved = async {
            let snapshot = snapshot?;
            let path = &snapshot.state;
            let state = File::create(path).map_err(|source| file_error("creating", path, source))?;
            self.save_state(&state).await.map(|()| snapshot)
        };
        let saved = saved.await;
        self.destroy().await?;
        let snapshot = saved?;
        tokio::task::spawn_blocking(move || keep(&snapshot).map(|()| snapshot))
            .await
            .map_err(|e| VmmError::System { step: "writing the snapshot to disk", source: e.into() })?
    }

    async fn exited(&self) -> ExitReason {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(ExitReason::Gone),
            Err(_) => ExitReason::Gone,
        }
    }

    async fn console_tail(&self) -> String {
        console(&self.qmp).await
    }

    fn private_bytes(&self) -> Result<u64, VmmError> {
        private_bytes(self.record.pid)
    }

    async fn destroy(&self) -> Result<(), VmmError> {
        self.process.kill();
        clean_up(&self.group, &self.record.dir).await;
        let gone = tokio::time::timeout(KILL_DEADLINE, self.process.exited()).await;
        gone.map(drop).map_err(|_| VmmError::Hung { command: "kill".to_owned(), seconds: KILL_DEADLINE.as_secs() })
    }
}

/// Kills what is left in the group, and removes it and the machine's folder. What cannot be removed is logged and
/// found again by the next start of the server.
pub(super) async fn clean_up(group: &Cgroup, dir: &Path) {
    group.kill();
    let removed = tokio::time::timeout(KILL_DEADLINE, async {
        // A group can go only when its last process has been gone for a moment.
        while group.remove().is_err() {
            tokio::time::sleep(KILL_POLL).await;
        }
    });
    if removed.await.is_err() {
        tracing::warn!(?group, "the control group could not be removed");
    }
    match tokio::fs::remove_dir_all(dir).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(dir = %dir.display(), %error, "the machine's folder could not be removed");
        }
        _ => {}
    }
}

/// Tells the first of: the process ended, the guest shut down.
async fn watch_exit(process: Arc<Process>, qmp: Arc<Qmp>, log: File, told: watch::Sender<Option<ExitReason>>) {
    let reason = tokio::select! {
        biased;
        reason = process.exited() => with_log(reason, &log),
        () = qmp.shutdown() => ExitReason::GuestShutdown { console: console(&qmp).await },
    };
    told.send_replace(Some(reason));
}

async fn console(qmp: &Qmp) -> String {
    let read = json!({"device": "console", "size": CONSOLE_BYTES, "format": "utf8"});
    match qmp.run("ringbuf-read", read).await {
        Ok(Value::String(text)) => text,
        Ok(_) | Err(_) => String::new(),
    }
}

/// A control connection that broke because QEMU has just died is reported as that death.
async fn explain_early_death(error: VmmError, process: &Process, log: &File) -> VmmError {
    match tokio::time::timeout(Duration::from_millis(200), process.exited()).await {
        Ok(reason) if !matches!(error, VmmError::Died { .. }) => died("starting", reason, log),
        _ => error,
    }
}

fn died(stage: &'static str, reason: ExitReason, log: &File) -> VmmError {
    VmmError::Died { stage, reason: with_log(reason, log) }
}

fn with_log(reason: ExitReason, log: &File) -> ExitReason {
    match reason {
        ExitReason::Exited { code, .. } => ExitReason::Exited { code, message: log_text(log) },
        other => other,
    }
}

/// Makes a snapshot read-only, root's alone, and durable.
fn keep(snapshot: &WarmSnapshot) -> Result<(), VmmError> {
    use std::os::unix::fs::PermissionsExt;
    for path in [&snapshot.memory, &snapshot.state, &snapshot.disk] {
        let fail = |step| move |source| VmmError::File { step, path: path.clone(), source };
        std::os::unix::fs::chown(path, Some(0), Some(0)).map_err(fail("taking back"))?;
        let file = File::open(path).map_err(fail("opening"))?;
        file.set_permissions(std::fs::Permissions::from_mode(0o400)).map_err(fail("protecting"))?;
        file.sync_all().map_err(fail("writing to disk"))?;
    }
    Ok(())
}
