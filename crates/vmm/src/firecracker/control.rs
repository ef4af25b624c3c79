//! Controls a running Firecracker: over its API, and through files in the jail.

use super::api::Api;
use super::exit::Logs;
use super::files::{self, INHERITED_PAGES, MEMORY, NEW_MEMORY, NEW_STATE};
use super::types::{SnapshotCreate, SnapshotType, Vm, VmState};
use crate::cgroup::Cgroup;
use crate::driver::Control;
use crate::error::{ExitReason, VmmError};
use crate::machine::Machine;
use crate::memory::{Mapping, OverlaidMemory};
use crate::process::Process;
use crate::spec::Snapshot;
use crate::started::Started;
use crate::watchdog;
use async_trait::async_trait;
use leapbox_errors::FileError;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

/// The [`Control`] of one Firecracker.
struct FirecrackerControl {
    api: Arc<Api>,
    logs: Arc<Logs>,
    /// The jail's root, in which its files are.
    root: PathBuf,
}

/// Makes a [`Machine`] of a Firecracker whose guest runs.
pub(super) fn watch(started: Started, api: Api, logs: Logs, root: PathBuf) -> Machine {
    let (api, logs) = (Arc::new(api), Arc::new(logs));
    let control = FirecrackerControl { api: Arc::clone(&api), logs: Arc::clone(&logs), root };
    let group = started.group.clone();
    Machine::watch(started, control, |process| ended(process, group, api, logs))
}

impl FirecrackerControl {
    async fn set(&self, machine: &Machine, state: VmState) -> Result<(), VmmError> {
        machine.while_alive("being paused or resumed", self.api.patch("/vm", &Vm { state })).await
    }

    /// Has Firecracker write memory and state into the jail.
    async fn write_outputs(&self, machine: &Machine) -> Result<(), VmmError> {
        // A server that was killed in the middle of this has left its outputs, and new ones must not exist.
        files::remove_outputs(&self.root);
        // Firecracker's user can create no file in the jail, so the two are made for it.
        for name in [NEW_MEMORY, NEW_STATE] {
            files::new_output(&self.root, name, machine.record.uid)?;
        }
        let create =
            SnapshotCreate { snapshot_type: SnapshotType::Diff, snapshot_path: NEW_STATE, mem_file_path: NEW_MEMORY };
        machine.while_alive("saving its state", self.api.put_memory("/snapshot/create", &create)).await
    }
}

#[async_trait]
impl Control for FirecrackerControl {
    async fn pause(&self, machine: &Machine) -> Result<(), VmmError> {
        self.set(machine, VmState::Paused).await
    }

    async fn resume(&self, machine: &Machine) -> Result<(), VmmError> {
        self.set(machine, VmState::Resumed).await
    }

    async fn save_state(&self, machine: &Machine) -> Result<Vec<u8>, VmmError> {
        let written = self.write_outputs(machine).await;
        let state = written.and_then(|()| files::read_state(&self.root));
        // Firecracker cannot write the state alone. Its memory file, the pages written since the last time, is not
        // used: Firecracker resets its record of dirty pages with every attempt, so that after one that failed half way
        // no later one is complete. The kernel's page tables say the same without that (`memory`).
        files::remove_outputs(&self.root);
        state
    }

    async fn write_snapshot(&self, machine: &Machine, snapshot: &Snapshot) -> Result<(), VmmError> {
        // Here Firecracker's memory file is the whole memory: dirty pages have been tracked since the boot, so it has
        // every page that was ever touched, and the rest are holes.
        self.write_outputs(machine).await?;
        let state = files::read_state(&self.root)?;
        fs::write(&snapshot.state, state).map_err(FileError::of("writing", &snapshot.state))?;
        let moved = fs::rename(self.root.join(NEW_MEMORY), &snapshot.memory);
        Ok(moved.map_err(FileError::of("moving into place", &snapshot.memory))?)
    }

    fn mapping(&self) -> Result<Mapping, VmmError> {
        Mapping::of_file(&self.root.join(MEMORY))
    }

    fn overlaid_memory(&self, machine: &Machine) -> Option<OverlaidMemory> {
        let inherited_pages = machine.record.dir.join(INHERITED_PAGES);
        Some(OverlaidMemory { memory: self.root.join(MEMORY), inherited_pages })
    }

    async fn console_tail(&self) -> String {
        self.logs.console.text()
    }
}

/// Waits for the first of three ends: the process exits, the guest halts, or Firecracker stops answering.
async fn ended(process: Arc<Process>, group: Cgroup, api: Arc<Api>, logs: Arc<Logs>) -> ExitReason {
    tokio::select! {
        biased;
        reason = process.exited() => logs.explain(reason).await,
        () = logs.console.halted() => ExitReason::GuestShutdown { console: logs.console.text() },
        hung = watchdog::watch(process.pid(), &group, || api.ask()) => {
            process.kill();
            hung
        }
    }
}
