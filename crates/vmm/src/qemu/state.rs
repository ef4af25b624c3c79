//! Saves and loads the device and CPU state of a QEMU. RAM is never part of it: that is the file or memfd it maps.
//!
//! ```text
//! out:  add-fd ──► xen-save-devices-state /dev/fdset/N ──► remove-fd ──► bytes    the machine stays stopped
//! in:   migrate-incoming fd:STATE ──► completed ──► cont
//! ```
//!
//! `xen-save-devices-state` needs no Xen. It is the one command that writes the devices alone; `migrate` would stream
//! all RAM of a clone, because its mapping is private. It writes a migration stream without the configuration section
//! and the closing description of the devices, so a restoring QEMU is started to expect neither (`args.rs`).
//! QEMU leaves it to the stream to fill its ROMs, and this one has neither RAM nor ROM: in a clone the firmware's
//! addresses read as zeroes. Nothing uses the firmware once the kernel runs, and a reboot ends the machine.

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

/// The descriptor set (`fdset`) through which QEMU gets a file to write. The disks use the sets of their own descriptor
/// numbers, so that of the state's descriptor is free.
const SET: i32 = fd::STATE;
/// The first bytes of a migration stream (`QEMU_VM_FILE_MAGIC`).
const MAGIC: &[u8] = b"QEVM";

/// Returns the device state of a stopped machine.
///
/// QEMU writes it into a memfd that is used for this call only. QEMU may keep its descriptor until the guest runs again
/// (see [`close_state_fd`]), but what it writes after this call is in no snapshot.
pub(super) async fn save(qmp: &Qmp) -> Result<Vec<u8>, VmmError> {
    let command = "xen-save-devices-state";
    if qmp.run("query-status", json!({})).await?.get("running") != Some(&Value::Bool(false)) {
        // QEMU would stop the machine for the command and then resume it, and memory and state would be of different
        // moments.
        return Err(VmmError::Refused { command: command.to_owned(), message: "the machine is not paused".to_owned() });
    }
    let system = |step| move |source| VmmError::System { step, source };
    let memfd = memfd_create("leapbox-state", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from);
    let memory = File::from(memfd.map_err(system("making a memfd"))?);
    // Opened again, for writing only: QEMU takes a descriptor out of a set only if its access mode is the one it wants.
    let writable = File::options().write(true).open(format!("/proc/self/fd/{}", memory.as_raw_fd()));
    qmp.add_fd(SET, writable.map_err(system("opening a memfd for writing"))?.as_fd()).await?;
    // With `live` at its default a stopped QEMU would then inactivate its block devices, for another QEMU to take them
    // over, and this machine could not go on.
    let saved = qmp.run(command, json!({"filename": format!("/dev/fdset/{SET}"), "live": false})).await;
    // Also after a failure, so that no descriptor stays in the set.
    close_state_fd(qmp).await?;
    saved?;
    let mut state = Vec::new();
    memory.take(STATE_MAX + 1).read_to_end(&mut state).map_err(system("reading the state"))?;
    if !state.starts_with(MAGIC) || state.len() as u64 > STATE_MAX {
        let message = format!("not a machine's device state ({} bytes)", state.len());
        return Err(VmmError::Protocol { command: command.to_owned(), message });
    }
    Ok(state)
}

/// Makes a sealed file of a state, with which a QEMU can be started.
pub(super) fn to_load(state: &[u8]) -> Result<File, VmmError> {
    let fill = |file: &File| {
        // `write_all_at` leaves the file's position at its beginning, from where QEMU reads.
        let written = file.write_all_at(state, 0);
        written.map_err(|source| VmmError::System { step: "writing a state into a memfd", source })
    };
    memfd::sealed("leapbox-state", fill).map(File::from)
}

/// Has QEMU close the descriptor that [`save`] gave it. QEMU marks the descriptors of a set for closing at any time,
/// but closes marked ones only while its guest runs, and only during such a command. It is therefore called again after
/// `cont`.
pub(super) async fn close_state_fd(qmp: &Qmp) -> Result<(), VmmError> {
    match qmp.run("remove-fd", json!({"fdset-id": SET})).await {
        // QEMU refuses if the set does not exist: nothing was saved, or the descriptor is closed already.
        Ok(_) | Err(VmmError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Loads the state with which a restoring QEMU was started, and lets its guest run.
pub(super) async fn load(qmp: &Qmp) -> Result<(), VmmError> {
    // QEMU sends the event MIGRATION, for which `migrated` waits, only if this capability is on.
    let capabilities = json!([{"capability": "events", "state": true}]);
    qmp.run("migrate-set-capabilities", json!({"capabilities": capabilities})).await?;
    qmp.run("migrate-incoming", json!({"uri": format!("fd:{}", fd::STATE)})).await?;
    qmp.migrated("migrate-incoming").await?;
    qmp.run("cont", json!({})).await.map(drop)
}
