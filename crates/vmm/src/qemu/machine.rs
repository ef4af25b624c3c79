//! One living QEMU.

use super::console::Console;
use super::file_error;
use super::qmp::Qmp;
use super::ram::NAME;
use super::state;
use crate::error::{ExitReason, VmmError};
use crate::log::log_text;
use crate::machine::{Machine, MachineRecord};
use crate::memory::{self, Mapping};
use crate::process::Process;
use crate::socket::SocketPath;
use crate::spec::{DiffSnapshot, Snapshot};
use crate::vessel::{Started, Vessel};
use crate::watchdog;
use async_trait::async_trait;
use leapbox_storage::Runs;
use serde_json::json;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// A running QEMU with an open control connection.
pub(super) struct QemuMachine {
    vessel: Vessel,
    qmp: Arc<Qmp>,
    console: Console,
    /// Where its memory and state go; only a booted machine has it.
    snapshot: Option<Snapshot>,
}

impl QemuMachine {
    /// Opens the control connection and starts watching the process. On failure nothing of the machine is left.
    pub async fn connect(
        started: Started,
        log: File,
        socket: SocketPath,
        deadline: Duration,
    ) -> Result<Self, VmmError> {
        let path = socket.path();
        let connected = tokio::select! {
            biased;
            qmp = Qmp::connect(&path, deadline) => qmp,
            reason = started.process.exited() => {
                Err(VmmError::Died { stage: "starting", reason: with_log(reason, &log) })
            }
        };
        let qmp = match connected {
            Ok(qmp) => Arc::new(qmp),
            Err(error) => return Err(started.give_up(error, async |reason| with_log(reason, &log)).await),
        };
        let console = Console::new(Arc::clone(&qmp));
        let (asked, told) = (Arc::clone(&qmp), console.clone());
        let vessel = Vessel::watch(started, |process| ended(process, asked, told, log));
        Ok(Self { vessel, qmp, console, snapshot: None })
    }

    /// Remembers where the snapshot of this machine goes.
    pub fn booted_into(mut self, snapshot: Snapshot) -> Self {
        self.snapshot = Some(snapshot);
        self
    }

    /// Loads the device state of a restored machine and lets its guest run.
    pub async fn load_state(&self) -> Result<(), VmmError> {
        self.vessel.while_alive("loading its state", state::load(&self.qmp)).await
    }

    /// Lays changes over the RAM of a restored machine, which has not loaded its devices: they look into it.
    pub async fn change_memory(&self, changes: Runs) -> Result<(), VmmError> {
        let injected = memory::inject(self.vessel.proc()?, Mapping::Memfd(NAME), self.vessel.record().shape, changes);
        self.vessel.while_alive("getting its memory back", injected).await
    }

    async fn save_state(&self) -> Result<Vec<u8>, VmmError> {
        self.vessel.while_alive("saving its state", state::save(&self.qmp)).await
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn record(&self) -> MachineRecord {
        self.vessel.record().clone()
    }

    fn netns(&self) -> Result<OwnedFd, VmmError> {
        self.vessel.netns()
    }

    async fn into_warm_snapshot(mut self: Box<Self>) -> Result<Snapshot, VmmError> {
        let snapshot = self.snapshot.take().ok_or(VmmError::Refused {
            command: "snapshot".to_owned(),
            message: "only a machine that was booted for it has a RAM file".to_owned(),
        });
        let saved = async {
            let snapshot = snapshot?;
            self.pause().await?;
            let state = self.save_state().await?;
            let path = &snapshot.state;
            std::fs::write(path, state).map_err(|source| file_error("writing", path, source))?;
            Ok(snapshot)
        };
        let saved = saved.await;
        let destroyed = self.destroy().await;
        let snapshot = saved?;
        destroyed?;
        snapshot.keep().await
    }

    async fn pause(&self) -> Result<(), VmmError> {
        let stop = async { self.qmp.run("stop", json!({})).await.map(drop) };
        self.vessel.while_alive("being paused", stop).await
    }

    async fn resume(&self) -> Result<(), VmmError> {
        let cont = async {
            self.qmp.run("cont", json!({})).await?;
            state::let_go(&self.qmp).await
        };
        self.vessel.while_alive("being resumed", cont).await
    }

    async fn snapshot_diff(&self) -> Result<DiffSnapshot, VmmError> {
        let state = self.save_state().await?;
        let found = memory::difference(self.vessel.proc()?, Mapping::Memfd(NAME), self.vessel.record().shape, None);
        let memory = self.vessel.while_alive("looking for its changes", found).await?;
        Ok(DiffSnapshot { memory: self.vessel.whole(memory), state })
    }

    async fn exited(&self) -> ExitReason {
        self.vessel.exited().await
    }

    async fn console_tail(&self) -> String {
        self.console.tail().await
    }

    fn private_bytes(&self) -> Result<u64, VmmError> {
        self.vessel.private_bytes()
    }

    async fn destroy(&self) -> Result<(), VmmError> {
        self.vessel.destroy().await
    }
}

/// Comes to an end with the first of: the process ended, the guest shut down, QEMU stopped answering.
async fn ended(process: Arc<Process>, qmp: Arc<Qmp>, console: Console, log: File) -> ExitReason {
    let ping = || async { qmp.run("query-status", json!({})).await.is_ok() };
    tokio::select! {
        biased;
        reason = process.exited() => with_log(reason, &log),
        () = qmp.shutdown() => ExitReason::GuestShutdown { console: console.tail().await },
        hung = watchdog::watch(ping) => {
            process.kill();
            hung
        }
    }
}

fn with_log(reason: ExitReason, log: &File) -> ExitReason {
    match reason {
        ExitReason::Exited { code, .. } => ExitReason::Exited { code, message: log_text(log) },
        other => other,
    }
}
