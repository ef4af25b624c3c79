//! Device and CPU state of a QEMU, out and in again. RAM is never part of it: that is the file or memfd it maps.
//!
//! ```text
//! out:  add-fd ──► xen-save-devices-state /dev/fdset/N ──► remove-fd ──► bytes    the machine stays stopped, and itself
//! in:   migrate-incoming fd:STATE ──► completed ──► cont
//! ```
//!
//! `xen-save-devices-state` needs no Xen. It is the one command that writes the devices alone; `migrate` would stream
//! all RAM of a clone, which has its RAM for itself. What it writes is a migration stream without the configuration
//! section and the closing description of the devices, so a restoring QEMU is told to expect neither (`args.rs`).
//! QEMU leaves it to the stream to fill its ROMs, and there is no RAM or ROM in this one: in a clone the firmware's
//! addresses read as zeroes. Nothing runs it any more once the kernel does, and a reboot ends the machine.

use super::args::fd;
use super::memfd;
use super::qmp::Qmp;
use crate::error::VmmError;
use crate::spec::STATE_MAX;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

/// The set that QEMU finds the descriptor in. Its number is free, like the descriptor's of the restored state, which
/// QEMU has closed.
const SET: i32 = fd::STATE;
/// First bytes of a migration stream (`QEMU_VM_FILE_MAGIC`).
const MAGIC: &[u8] = b"QEVM";

/// The state of a stopped machine.
///
/// QEMU writes into memory, and the file is ours alone: QEMU may keep its descriptor until the guest goes on (see
/// [`let_go`]), and what it writes after that is in no snapshot.
pub(super) async fn save(qmp: &Qmp) -> Result<Vec<u8>, VmmError> {
    let command = "xen-save-devices-state";
    if qmp.run("query-status", json!({})).await?.get("running") != Some(&Value::Bool(false)) {
        // QEMU would stop it and let it go on, and memory and state would be of different moments.
        return Err(VmmError::Refused { command: command.to_owned(), message: "the machine is not paused".to_owned() });
    }
    let system = |step| move |source| VmmError::System { step, source };
    let memfd = memfd_create("leapbox-state", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from);
    let memory = File::from(memfd.map_err(system("making a memfd"))?);
    // QEMU takes a descriptor out of a set only if it is open for exactly what it wants to do.
    let writable = File::options().write(true).open(format!("/proc/self/fd/{}", memory.as_raw_fd()));
    qmp.add_fd(SET, writable.map_err(system("opening a memfd for writing"))?.as_fd()).await?;
    // Without `live: false` a stopped QEMU would give up its block devices after that, for another one to take them.
    let saved = qmp.run(command, json!({"filename": format!("/dev/fdset/{SET}"), "live": false})).await;
    let_go(qmp).await?;
    saved?;
    let mut state = Vec::new();
    memory.take(STATE_MAX + 1).read_to_end(&mut state).map_err(system("reading the state"))?;
    if !state.starts_with(MAGIC) || state.len() as u64 > STATE_MAX {
        let message = format!("{} bytes that are no state of a machine", state.len());
        return Err(VmmError::Protocol { command: command.to_owned(), message });
    }
    Ok(state)
}

/// A state that is in memory, for a QEMU to be started with.
pub(super) fn to_load(state: &[u8]) -> Result<File, VmmError> {
    let fill = |file: &File| {
        // Without moving the position from which QEMU reads.
        let written = file.write_all_at(state, 0);
        written.map_err(|source| VmmError::System { step: "writing a state into a memfd", source })
    };
    memfd::sealed("leapbox-state", fill).map(File::from)
}

/// Has QEMU close what [`save`] gave it. It marks descriptors of a set for that at any time, but closes them only while
/// its guest runs, and only when asked: to be called again after `cont`.
pub(super) async fn let_go(qmp: &Qmp) -> Result<(), VmmError> {
    match qmp.run("remove-fd", json!({"fdset-id": SET})).await {
        // There is none: nothing was saved, or it is closed.
        Ok(_) | Err(VmmError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Loads the state that a restoring QEMU was started with, and lets its guest run.
pub(super) async fn load(qmp: &Qmp) -> Result<(), VmmError> {
    let capabilities = json!([{"capability": "events", "state": true}]);
    qmp.run("migrate-set-capabilities", json!({"capabilities": capabilities})).await?;
    qmp.run("migrate-incoming", json!({"uri": format!("fd:{}", fd::STATE)})).await?;
    qmp.migrated("migrate-incoming").await?;
    qmp.run("cont", json!({})).await.map(drop)
}
