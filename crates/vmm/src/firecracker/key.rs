//! The compatibility key of a Firecracker snapshot: a hash over the program, the image, the devices, and the CPU model
//! and kernel of the host.
//!
//! Firecracker promises a restore only on the same CPU model and host kernel (its docs/snapshotting/versioning.md).

use super::binaries::Binaries;
use super::setup::{DEVICE_LAYOUT_VERSION, KERNEL_COMMAND_LINE};
use crate::error::VmmError;
use crate::shape::Shape;
use crate::spec::GuestImage;
use leapbox_errors::FileError;
use sha2::{Digest, Sha256};

/// The lines of /proc/cpuinfo that tell CPU models apart. Others, like the clock rate, change from one reading to the
/// next.
const CPU_LINES: [&str; 6] = ["vendor_id", "cpu family", "model", "stepping", "microcode", "flags"];

/// Describes this host as far as a snapshot depends on it: kernel release and CPU model.
pub(super) fn host() -> Result<String, VmmError> {
    let read = |path: &'static str, step| std::fs::read_to_string(path).map_err(FileError::of(step, path));
    let kernel = read("/proc/sys/kernel/osrelease", "reading the kernel's release")?;
    let cpu = cpu(&read("/proc/cpuinfo", "reading the CPU's model")?);
    Ok(format!("{}\n{cpu}", kernel.trim()))
}

/// The CPU's model, as lines of `cpuinfo`.
fn cpu(cpuinfo: &str) -> String {
    // The first CPU stands for all: KVM's state cannot move between models, so a host that mixes them is not supported.
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let named = |line: &&str| line.split(':').next().is_some_and(|name| CPU_LINES.contains(&name.trim()));
    first.lines().filter(named).collect::<Vec<_>>().join("\n")
}

/// The compatibility key of a machine of `shape` that boots `image`, lowercase hexadecimal.
pub(super) fn of(binaries: &Binaries, host: &str, shape: Shape, image: &GuestImage) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("firecracker {DEVICE_LAYOUT_VERSION} {} {}\n", binaries.digest, image.digest));
    hash.update(format!("{KERNEL_COMMAND_LINE}\n{shape}\n{host}\n"));
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cpu_model_is_another_host_and_its_speed_is_not() {
        let cpuinfo = |model, mhz| {
            format!("processor\t: 0\nmodel\t\t: {model}\ncpu MHz\t\t: {mhz}\nflags\t\t: fpu svm\n\nprocessor\t: 1\n")
        };
        assert_eq!(cpu(&cpuinfo(49, 2000)), cpu(&cpuinfo(49, 3000)));
        assert_ne!(cpu(&cpuinfo(49, 2000)), cpu(&cpuinfo(1, 2000)));
        assert_eq!(cpu(&cpuinfo(49, 2000)), "model\t\t: 49\nflags\t\t: fpu svm");
    }
}
