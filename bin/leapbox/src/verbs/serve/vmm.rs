//! Opens the driver that was chosen. This is the one place that names every driver: the rest of the server has a
//! `dyn Vmm`.

use super::ServeError;
use super::error::system;
use crate::config::Config;
use crate::verbs::driver::{Driver, DriverFacts, choose};
use leapbox_vmm::{Firecracker, FirecrackerConfig, Qemu, QemuConfig, Vmm};
use std::path::Path;
use std::sync::Arc;

/// Opens the driver for this host, with its own files under `state_dir`. `instance` is a part of its cgroups' names.
pub fn open(config: &Config, state_dir: &Path, instance: &str) -> Result<Arc<dyn Vmm>, ServeError> {
    let choice = choose(config.driver, &DriverFacts::read(Path::new("/")))?;
    tracing::info!(driver = %choice.driver, why = %choice.why, "driver picked");
    let instance = instance.to_owned();
    let vmm: Arc<dyn Vmm> = match choice.driver {
        Driver::Qemu => {
            // QEMU has no jailer: `leapbox confine`, this very program, builds its confinement.
            let launcher = std::env::current_exe().map_err(system("finding our own program"))?;
            Arc::new(Qemu::open(QemuConfig { dir: state_dir.join("qemu"), instance, launcher })?)
        }
        Driver::Firecracker(binaries) => {
            for warning in &binaries.warnings {
                tracing::warn!(version = %binaries.version, "{warning}");
            }
            let dir = state_dir.join("firecracker");
            Arc::new(Firecracker::open(FirecrackerConfig { dir, instance, binaries })?)
        }
    };
    for controller in vmm.unenforced_limits() {
        tracing::warn!(controller, "this host lacks a cgroup controller, so this limit of VMMs is not enforced");
    }
    Ok(vmm)
}
