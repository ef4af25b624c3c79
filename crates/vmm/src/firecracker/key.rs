//! What a Firecracker snapshot fits: the program, the guest, the machine, and the CPU and kernel it was taken on.
//!
//! Firecracker promises a restore on the same CPU model and host kernel only (its docs/snapshotting/versioning.md).

use super::binaries::Binaries;
use super::guest::{KERNEL_COMMAND_LINE, MACHINE};
use crate::error::VmmError;
use crate::shape::Shape;
use crate::spec::GuestImage;
use leapbox_errors::FileError;
use sha2::{Digest, Sha256};

/// Lines of /proc/cpuinfo that tell one CPU model from another.
const CPU_LINES: [&str; 6] = ["vendor_id", "cpu family", "model", "stepping", "microcode", "flags"];

/// This host, as far as a snapshot depends on it.
pub(super) fn host() -> Result<String, VmmError> {
    let read = |path: &'static str, step| std::fs::read_to_string(path).map_err(FileError::of(step, path));
    let kernel = read("/proc/sys/kernel/osrelease", "reading the kernel's release")?;
    let cpu = cpu(&read("/proc/cpuinfo", "reading the CPU's model")?);
    Ok(format!("{}\n{cpu}", kernel.trim()))
}

/// The first CPU's model: hosts with several models are not supported by KVM's live state either.
fn cpu(cpuinfo: &str) -> String {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let named = |line: &&str| line.split(':').next().is_some_and(|name| CPU_LINES.contains(&name.trim()));
    first.lines().filter(named).collect::<Vec<_>>().join("\n")
}

/// The compatibility key.
pub(super) fn of(binaries: &Binaries, host: &str, shape: Shape, image: &GuestImage) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("firecracker {MACHINE} {} {}\n", binaries.digest, image.digest));
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
