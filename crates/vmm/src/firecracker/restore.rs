//! Loads a snapshot into an idle Firecracker.
//!
//! ```text
//! of a base alone:   hard links to its memory and state ─────────┐
//! with changes:      overlaid memory, the changes' device state ─┴─► jail ─► load ─► limits ─► the guest runs
//!                    └─ file of inherited pages ─► the machine's directory, outside the jail
//! ```
//!
//! A copy of the base's memory is overlaid with the changes before the load. They cannot be written into a loaded
//! machine, because Firecracker loads memory and devices in one step, and its devices read the memory as they are
//! loaded.

use super::files::{self, INHERITED_PAGES, MEMORY, ROOTFS, STATE};
use super::{Firecracker, Idle, control, setup};
use crate::blocking::blocking;
use crate::error::VmmError;
use crate::machine::Machine;
use crate::memory::{InheritedPages, Mapping, overlay};
use crate::spec::RestoreSpec;
use std::path::Path;
use std::sync::Arc;

impl Firecracker {
    /// Loads the snapshot of `spec` into an idle Firecracker and lets its guest run. On failure nothing of it is left.
    pub(super) async fn load_in(&self, idle: Idle, spec: RestoreSpec) -> Result<Machine, VmmError> {
        let Idle { started, api, logs, root } = idle;
        let (snapshot, limits, plain) = (Arc::clone(&spec.snapshot), spec.limits, spec.changes.is_none());
        let (jail, copies) = (root.clone(), self.copies.clone());
        let loaded = async {
            blocking("filling the jail", move || fill(spec, &jail, &copies)).await?;
            setup::load(&api, &limits).await
        };
        match loaded.await {
            Ok(()) => {
                let memory = root.join(MEMORY);
                let machine = control::watch(started, api, logs, root);
                // With changes the clone maps a file of its own that has just been written: there is nothing to read
                // ahead.
                if plain && let Ok(mapping) = Mapping::of_file(&memory) {
                    self.prefetch.record(machine.record.pid, mapping, &snapshot);
                }
                Ok(machine)
            }
            Err(error) => Err(started.abort(error, |reason| logs.explain(reason)).await),
        }
    }
}

/// Puts the files that the machine needs into its jail. Blocking.
fn fill(spec: RestoreSpec, jail: &Path, copies: &Path) -> Result<(), VmmError> {
    let snapshot = &spec.snapshot;
    let inherited_pages = match spec.changes {
        None => {
            files::link(&snapshot.memory, jail, MEMORY, copies)?;
            files::link(&snapshot.state, jail, STATE, copies)?;
            InheritedPages::default()
        }
        Some(changes) => {
            changes.check_state()?;
            files::write_state(jail, &changes.state)?;
            overlay(&snapshot.memory, changes.memory, snapshot.shape.memory_bytes(), &jail.join(MEMORY))?
        }
    };
    // Written for a clone of the base alone as well: for its next difference a missing file is an error, because
    // inherited pages that are in no file would be lost unnoticed.
    inherited_pages.save(&spec.confinement.dir.join(INHERITED_PAGES))?;
    files::link(&spec.image.rootfs, jail, ROOTFS, copies)?;
    files::link_disk(&spec.disk, jail, spec.confinement.uid)
}
