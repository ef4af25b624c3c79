//! The one place that knows which drivers there are.

use crate::settings::{self, Settings};
use leapbox_templates::host_packages::find_program;
use leapbox_vmm::floor::Floor;
use leapbox_vmm::{Binaries, Firecracker, FirecrackerConfig, Qemu, QemuConfig, Vmm};
use std::path::Path;
use std::sync::Arc;

/// Opens the driver the settings name, with its files under `dir`. Opened again with the same arguments, it is what a
/// restarted server would have.
pub fn open(settings: &Settings, dir: &Path, instance: &str) -> Arc<dyn Vmm> {
    match open_floor(settings, dir, instance) {
        Floor::Qemu(driver) => Arc::new(driver),
        Floor::Firecracker(driver) => Arc::new(driver),
    }
}

/// The same driver, to start clones without walls.
pub fn open_floor(settings: &Settings, dir: &Path, instance: &str) -> Floor {
    let (dir, instance) = (dir.join(&settings.driver), instance.to_owned());
    match settings.driver.as_str() {
        "qemu" => {
            let launcher = settings::launcher();
            Floor::Qemu(Qemu::open(QemuConfig { dir, instance, launcher }).expect("the driver opens"))
        }
        "firecracker" => {
            let (firecracker, jailer) = (find_program("firecracker"), find_program("jailer"));
            let binaries = Binaries::inspect(firecracker.as_deref(), jailer.as_deref());
            let binaries = binaries.expect("firecracker and jailer are in PATH");
            let driver = Firecracker::open(FirecrackerConfig { dir, instance, binaries });
            Floor::Firecracker(driver.expect("the driver opens"))
        }
        other => panic!("LEAPBOX_CONFORMANCE_DRIVER={other}: no such driver is in this build"),
    }
}
