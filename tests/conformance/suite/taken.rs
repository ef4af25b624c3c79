//! A snapshot of a running machine, made whole: what a pause will keep.

use crate::host;
use crate::rig::Rig;
use crate::vm::Vm;
use leapbox_storage::copy_sparse;
use leapbox_vmm::{Snapshot, compose_memory};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Taken of a machine that stays paused.
pub struct Taken {
    /// Complete: clones start from it.
    pub snapshot: Arc<Snapshot>,
    /// Bytes of memory that had to be stored.
    pub stored: u64,
    /// How long the driver took.
    pub took: Duration,
}

impl Rig {
    /// Pauses a machine and takes a snapshot of it: what it wrote in its memory, composed with what it was started
    /// from, and a copy of its disk.
    pub async fn take_snapshot(&self, vm: &Vm) -> Taken {
        vm.machine.pause().await.expect("it can be paused");
        let dir = self.new_dir();
        let started = Instant::now();
        let diff = vm.machine.snapshot_diff(&dir).await.expect("a snapshot is taken");
        let took = started.elapsed();
        let base = vm.snapshot.as_ref().expect("a clone");
        let snapshot = Snapshot {
            shape: base.shape,
            memory: dir.join("whole"),
            state: diff.state.clone(),
            disk: dir.join("disk"),
            compatibility_key: base.compatibility_key.clone(),
        };
        compose_memory(&base.memory, &diff.memory, &snapshot.memory).await.expect("the memory is made whole");
        let (disk, copy) = (vm.disk.clone(), snapshot.disk.clone());
        let copied = tokio::task::spawn_blocking(move || copy_sparse(&disk, &copy)).await;
        copied.expect("no panic").expect("the disk is copied");
        for file in [&snapshot.memory, &snapshot.state, &snapshot.disk] {
            make_readable(file);
        }
        let stored = host::data_bytes(&diff.memory);
        Taken { snapshot: Arc::new(snapshot), stored, took }
    }
}

/// As a warm snapshot's files are: read by VMMs under users of their own, written by nobody.
fn make_readable(file: &PathBuf) {
    std::fs::set_permissions(file, Permissions::from_mode(0o444)).expect("its mode is changed");
}
