//! One living Firecracker.

use super::api::Api;
use super::exit::Logs;
use super::files::{self, INHERITED, MEMORY, NEW_MEMORY, NEW_STATE};
use super::types::{SnapshotCreate, SnapshotType, Vm, VmState};
use crate::error::{ExitReason, VmmError};
use crate::machine::{Machine, MachineRecord};
use crate::memory::{self, Composed, Mapping};
use crate::process::Process;
use crate::spec::{DiffSnapshot, Snapshot};
use crate::vessel::{Started, Vessel};
use crate::watchdog;
use async_trait::async_trait;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// A running Firecracker with a machine in it.
pub(super) struct FirecrackerMachine {
    vessel: Vessel,
    api: Arc<Api>,
    logs: Arc<Logs>,
    /// Where its files are: the jail's root.
    root: PathBuf,
    /// Where its memory and state go; only a booted machine has it.
    snapshot: Option<Snapshot>,
}

impl FirecrackerMachine {
    /// Starts watching a process whose machine runs.
    pub fn watch(started: Started, api: Api, logs: Logs, root: PathBuf) -> Self {
        let (api, logs) = (Arc::new(api), Arc::new(logs));
        let (asked, told) = (Arc::clone(&api), Arc::clone(&logs));
        let vessel = Vessel::watch(started, |process| ended(process, asked, told));
        Self { vessel, api, logs, root, snapshot: None }
    }

    /// Remembers where the snapshot of this machine goes.
    pub fn booted_into(mut self, snapshot: Snapshot) -> Self {
        self.snapshot = Some(snapshot);
        self
    }

    /// The guest RAM this machine was started from, as its process maps it.
    pub fn mapping(&self) -> Result<Mapping, VmmError> {
        Mapping::of_file(&self.root.join(MEMORY))
    }

    /// An error if it has ended.
    pub fn check_alive(&self) -> Result<(), VmmError> {
        self.vessel.check_alive()
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.vessel.record().pid
    }

    async fn set(&self, state: VmState) -> Result<(), VmmError> {
        self.vessel.while_alive("being paused or resumed", self.api.patch("/vm", &Vm { state })).await
    }

    /// Lets Firecracker write memory and state into the jail.
    async fn write_outputs(&self) -> Result<(), VmmError> {
        files::remove_outputs(&self.root);
        let uid = self.vessel.record().uid;
        for name in [NEW_MEMORY, NEW_STATE] {
            files::new_output(&self.root, name, uid)?;
        }
        let create =
            SnapshotCreate { snapshot_type: SnapshotType::Diff, snapshot_path: NEW_STATE, mem_file_path: NEW_MEMORY };
        self.vessel.while_alive("saving its state", self.api.put_memory("/snapshot/create", &create)).await
    }

    /// The outputs of a booted machine are complete: with tracking on from the start, Firecracker has written every
    /// page that was ever touched.
    async fn save_booted(&self, snapshot: &Snapshot) -> Result<(), VmmError> {
        self.pause().await?;
        self.write_outputs().await?;
        let file = |step, path: &PathBuf| {
            let path = path.clone();
            move |source| VmmError::File { step, path, source }
        };
        fs::write(&snapshot.state, files::read_state(&self.root)?).map_err(file("writing", &snapshot.state))?;
        let written = self.root.join(NEW_MEMORY);
        fs::rename(&written, &snapshot.memory).map_err(file("moving into place", &snapshot.memory))
    }

    /// Its device state, and that alone. Which pages differ is asked of the kernel, not of Firecracker: it forgets its
    /// own account of them with every attempt, and one that failed half way would leave a machine that can't be saved
    /// any more. The memory file beside the state, as large as what was written since the last time, is thrown away.
    async fn save_state(&self) -> Result<Vec<u8>, VmmError> {
        let written = self.write_outputs().await;
        let state = written.and_then(|()| files::read_state(&self.root));
        files::remove_outputs(&self.root);
        state
    }
}

#[async_trait]
impl Machine for FirecrackerMachine {
    fn record(&self) -> MachineRecord {
        self.vessel.record().clone()
    }

    fn netns(&self) -> Result<OwnedFd, VmmError> {
        self.vessel.netns()
    }

    async fn into_warm_snapshot(mut self: Box<Self>) -> Result<Snapshot, VmmError> {
        let snapshot = self.snapshot.take().ok_or(VmmError::Refused {
            command: "snapshot".to_owned(),
            message: "only a machine that was booted for it has a place for its memory".to_owned(),
        });
        let saved = async {
            let snapshot = snapshot?;
            self.save_booted(&snapshot).await.map(|()| snapshot)
        };
        let saved = saved.await;
        let destroyed = self.destroy().await;
        let snapshot = saved?;
        destroyed?;
        snapshot.keep().await
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.set(VmState::Paused).await
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.set(VmState::Resumed).await
    }

    async fn snapshot_diff(&self) -> Result<DiffSnapshot, VmmError> {
        let state = self.save_state().await?;
        let record = self.vessel.record();
        let composed = Composed { memory: self.root.join(MEMORY), note: record.dir.join(INHERITED) };
        let found = memory::difference(self.vessel.proc()?, self.mapping()?, record.shape, Some(composed));
        let memory = self.vessel.while_alive("looking for its changes", found).await?;
        Ok(DiffSnapshot { memory: self.vessel.whole(memory), state })
    }

    async fn exited(&self) -> ExitReason {
        self.vessel.exited().await
    }

    async fn console_tail(&self) -> String {
        self.logs.console.text()
    }

    fn private_bytes(&self) -> Result<u64, VmmError> {
        self.vessel.private_bytes()
    }

    async fn destroy(&self) -> Result<(), VmmError> {
        self.vessel.destroy().await
    }
}

/// Comes to an end with the first of: the process ended, the guest halted, Firecracker stopped answering.
async fn ended(process: Arc<Process>, api: Arc<Api>, logs: Arc<Logs>) -> ExitReason {
    tokio::select! {
        biased;
        reason = process.exited() => logs.explain(reason).await,
        () = logs.console.halted() => ExitReason::GuestShutdown { console: logs.console.text() },
        hung = watchdog::watch(|| api.is_alive()) => {
            process.kill();
            hung
        }
    }
}
