//! What finds a living VMM again after the server was restarted.

use crate::error::VmmError;
use crate::process::{Process, host_boot_id};
use crate::shape::Shape;
use crate::spec::Confinement;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What finds a living VMM again after the server was restarted. Kept in the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// The driver's name.
    pub driver: String,
    /// Process id of the VMM in the host's pid namespace.
    pub pid: i32,
    /// The process's start time in clock ticks since the host's boot: tells a reused pid apart.
    pub start_ticks: u64,
    /// The host's boot id: a record of another boot is dead.
    pub host_boot_id: String,
    /// Size.
    pub shape: Shape,
    /// The confinement's name.
    pub name: String,
    /// The confinement's uid.
    pub uid: u32,
    /// The confinement's folder.
    pub dir: PathBuf,
}

impl MachineRecord {
    /// The record of a process that has just been started.
    pub(crate) fn of(
        driver: &str,
        process: &Process,
        shape: Shape,
        confinement: &Confinement,
        host_boot_id: &str,
    ) -> Self {
        Self {
            driver: driver.to_owned(),
            pid: process.pid(),
            start_ticks: process.start_ticks(),
            host_boot_id: host_boot_id.to_owned(),
            shape,
            name: confinement.name.clone(),
            uid: confinement.uid,
            dir: confinement.dir.clone(),
        }
    }

    /// Whether the recorded process still lives, whoever's driver it is.
    pub fn is_alive(&self) -> bool {
        let this_boot = host_boot_id().is_ok_and(|id| id == self.host_boot_id);
        this_boot && Process::open_recorded(self.pid, self.start_ticks).is_ok()
    }

    /// The recorded process, if it still lives and is `driver`'s.
    pub(crate) fn process(&self, driver: &'static str, host_boot_id: &str) -> Result<Process, VmmError> {
        if self.driver != driver {
            return Err(VmmError::OtherDriver { recorded: self.driver.clone(), own: driver });
        }
        if self.host_boot_id != host_boot_id {
            return Err(VmmError::NotAlive { pid: self.pid });
        }
        Process::open_recorded(self.pid, self.start_ticks)
    }
}
