//! One living Firecracker.

use super::api::Api;
use super::exit::Logs;
use super::files::{self, MEMORY, NEW_MEMORY, NEW_STATE};
use super::types::{SnapshotCreate, SnapshotType, Vm, VmState};
use crate::error::{ExitReason, VmmError};
use crate::machine::{Machine, MachineRecord};
use crate::memory::{self, Mapping};
use crate::process::Process;
use crate::spec::{DiffSnapshot, Snapshot};
use crate::vessel::{Started, Vessel};
use crate::watchdog;
use async_trait::async_trait;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
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
        files::copy_state(&self.root, &snapshot.state)?;
        let written = self.root.join(NEW_MEMORY);
        fs::rename(&written, &snapshot.memory).map_err(|source| VmmError::File {
            step: "moving into place",
            path: snapshot.memory.clone(),
            source,
        })
    }

    /// Which pages differ is asked of the kernel, not of Firecracker: it forgets its own account of them with every
    /// attempt, and one that failed half way would leave a machine that can't be saved any more. So only its device
    /// state is used; the memory file beside it, as large as what was written since the last time, is thrown away.
    async fn save_difference(&self, dir: &Path) -> Result<DiffSnapshot, VmmError> {
        let (memory, state) = (dir.join("memory"), dir.join("state"));
        self.write_outputs().await?;
        files::copy_state(&self.root, &state)?;
        files::remove_outputs(&self.root);
        let record = self.vessel.record();
        let writing = async { memory::write_dirty(record.pid, self.mapping()?, record.shape, &memory).await };
        match self.vessel.while_alive("saving its memory", writing).await {
            Ok(()) => Ok(DiffSnapshot { memory, state }),
            Err(error) => {
                // So that it can be asked again.
                let _ = fs::remove_file(&state);
                Err(error)
            }
        }
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

    async fn snapshot_diff(&self, dir: &Path) -> Result<DiffSnapshot, VmmError> {
        let saved = self.save_difference(dir).await;
        files::remove_outputs(&self.root);
        saved
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
