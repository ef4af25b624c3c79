//! The record by which a restarted server finds a living VMM again.

use crate::error::VmmError;
use crate::process::{Process, host_boot_id, still_runs};
use crate::shape::Shape;
use crate::spec::Confinement;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The record by which a restarted server finds a living VMM again. The database stores it in the sandbox's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRecord {
    /// The name of the driver that started it; no other driver may adopt it.
    pub driver: String,
    /// Process id of the VMM in the host's pid namespace.
    pub pid: i32,
    /// The process's start in clock ticks since the host's boot. It tells the process from a later one of the same pid.
    pub start_ticks: u64,
    /// The host's boot id. No process of a record from another boot is alive.
    pub host_boot_id: String,
    pub shape: Shape,
    /// [`Confinement::name`]: of the control group and the jail.
    pub name: String,
    /// [`Confinement::uid`], under which the VMM runs.
    pub uid: u32,
    /// [`Confinement::dir`], where its control socket is.
    pub dir: PathBuf,
}

/// Whether a recorded process is still alive.
#[derive(Debug)]
pub enum Life {
    Alive,
    /// Proven: the host has booted since, no process has the number, or another one has it now.
    Dead,
    /// The host did not tell, because descriptors ran out for example. The process may well be alive.
    Unknown(VmmError),
}

impl MachineRecord {
    /// Makes the record of a process that `driver` has just started.
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

    /// Finds out whether the recorded process is still alive, whichever driver started it.
    pub fn life(&self) -> Life {
        let runs = match host_boot_id() {
            Ok(boot) if boot != self.host_boot_id => Ok(false),
            Ok(_) => still_runs(self.pid, self.start_ticks),
            Err(error) => Err(error),
        };
        match runs {
            Ok(true) => Life::Alive,
            Ok(false) => Life::Dead,
            Err(error) if error.is_death() => Life::Dead,
            Err(error) => Life::Unknown(error),
        }
    }

    /// Opens the recorded process. The error is [`VmmError::NotAlive`] if it has ended, and only then.
    pub(crate) fn process(&self, driver: &'static str, host_boot_id: &str) -> Result<Process, VmmError> {
        if self.driver != driver {
            return Err(VmmError::OtherDriver { recorded: self.driver.clone(), own: driver });
        }
        // Start times count from the boot, so after a reboot an unrelated process can have the same pid and ticks.
        if self.host_boot_id != host_boot_id {
            return Err(VmmError::NotAlive { pid: self.pid });
        }
        let process = Process::open_recorded(self.pid, self.start_ticks)?;
        process.check_alive().map(|()| process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record_of(pid: i32) -> MachineRecord {
        let stat = crate::process::stat_after_name(&PathBuf::from(format!("/proc/{pid}/stat"))).expect("alive");
        let start_ticks = stat.split_ascii_whitespace().nth(19).expect("a start time").parse().expect("a number");
        MachineRecord {
            driver: "qemu".to_owned(),
            pid,
            start_ticks,
            host_boot_id: host_boot_id().expect("a boot id"),
            shape: Shape { vcpus: 1, memory_mib: 512 },
            name: "one".to_owned(),
            uid: 1000,
            dir: PathBuf::from("/nowhere"),
        }
    }

    #[test]
    fn a_process_that_runs_is_alive_and_one_that_is_stopped_as_well() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep runs");
        let pid = child.id() as i32;
        let record = record_of(pid);
        assert!(matches!(record.life(), Life::Alive), "{:?}", record.life());
        let stop = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGSTOP);
        stop.expect("stopped");
        assert!(matches!(record.life(), Life::Alive), "{:?}", record.life());
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(matches!(record.life(), Life::Dead), "{:?}", record.life());
    }

    #[test]
    fn a_process_that_has_ended_and_is_not_reaped_is_dead() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep runs");
        let record = record_of(child.id() as i32);
        child.kill().expect("killed");
        while !matches!(record.life(), Life::Dead) {
            std::thread::yield_now();
        }
        child.wait().expect("reaped");
    }

    #[test]
    fn a_record_of_another_boot_or_of_another_process_is_of_a_dead_one() {
        let own = record_of(std::process::id() as i32);
        assert!(matches!(own.life(), Life::Alive), "{:?}", own.life());
        let rebooted = MachineRecord { host_boot_id: "00000000-0000-4000-8000-000000000000".to_owned(), ..own.clone() };
        assert!(matches!(rebooted.life(), Life::Dead), "{:?}", rebooted.life());
        let reused = MachineRecord { start_ticks: own.start_ticks + 1, ..own };
        assert!(matches!(reused.life(), Life::Dead), "{:?}", reused.life());
    }
}
