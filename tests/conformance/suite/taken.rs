//! A snapshot of a running machine: what a pause keeps of it, beside its base.

use crate::rig::Rig;
use crate::vm::Vm;
use leapbox_storage::{Run, copy_sparse};
use leapbox_vmm::{DiffSnapshot, Snapshot};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Taken of a machine that stays paused.
pub struct Taken {
    /// What the changes belong to.
    pub base: Arc<Snapshot>,
    /// The changes of the memory.
    pub memory: Vec<Run>,
    /// Device and CPU state.
    pub state: Vec<u8>,
    /// A copy of the disk.
    pub disk: PathBuf,
    /// How long the driver took, until the memory was read.
    pub took: Duration,
}

impl Taken {
    /// Bytes of memory that had to be stored.
    pub fn stored(&self) -> u64 {
        self.memory.iter().map(|run| run.bytes.len() as u64).sum()
    }

    /// What a driver is given to restore it, any number of times.
    pub fn changes(&self) -> DiffSnapshot {
        let runs = self.memory.clone();
        DiffSnapshot { memory: Box::new(runs.into_iter().map(Ok)), state: self.state.clone() }
    }
}

impl Rig {
    /// Pauses a machine and takes a snapshot of it: what is not its base's in its memory, and a copy of its disk.
    pub async fn take_snapshot(&self, vm: &Vm) -> Taken {
        vm.machine.pause().await.expect("it can be paused");
        let base = Arc::clone(vm.snapshot.as_ref().expect("a clone"));
        let started = Instant::now();
        let diff = vm.machine.snapshot_diff().await.expect("a snapshot is taken");
        let (state, memory) = (diff.state.clone(), read(diff).await.expect("all of it can be read"));
        let took = started.elapsed();
        let copy = self.new_dir().join("disk");
        let (disk, from, to) = (copy.clone(), vm.disk.clone(), copy.clone());
        let copied = tokio::task::spawn_blocking(move || copy_sparse(&from, &to)).await;
        copied.expect("no panic").expect("the disk is copied");
        // As a base's files are: read by VMMs under users of their own, written by nobody.
        std::fs::set_permissions(&copy, Permissions::from_mode(0o444)).expect("its mode is changed");
        Taken { base, memory, state, disk, took }
    }

    /// The machine that a snapshot was taken of, once more; it has not been told who it is.
    pub async fn restore(&self, taken: &Taken) -> Vm {
        let place = self.place(Some(&taken.disk)).await;
        self.restore_changed_at(&place, &taken.base, taken.changes()).await.expect("it is restored")
    }

    /// A sandbox of its own from what was taken.
    pub async fn wake(&self, taken: &Taken) -> Vm {
        let vm = self.restore(taken).await;
        vm.configure_restored().await;
        vm
    }
}

/// Reads the memory of a snapshot, as whoever stores it does.
pub async fn read(diff: DiffSnapshot) -> io::Result<Vec<Run>> {
    let reading = tokio::task::spawn_blocking(move || diff.memory.collect());
    reading.await.expect("no panic")
}
