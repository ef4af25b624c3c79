//! The command line. Every descriptor has a fixed number, so that the line is the same for every clone of a shape and
//! can be hashed into the compatibility key.

use super::runtime::PROGRAM;
use crate::shape::Shape;
use std::os::fd::RawFd;

/// Numbers of the descriptors QEMU inherits.
pub mod fd {
    use super::RawFd;

    /// The kernel's ELF image, read-only.
    pub const KERNEL: RawFd = 10;
    /// The initramfs, read-only.
    pub const INITRAMFS: RawFd = 11;
    /// The root file system, read-only.
    pub const ROOTFS: RawFd = 12;
    /// The writable disk.
    pub const DISK: RawFd = 13;
    /// Guest RAM: a file (boot) or a sealed memfd (restore).
    pub const RAM: RawFd = 14;
    /// The listening control socket.
    pub const CONTROL: RawFd = 15;
    /// The workload's tap.
    pub const WORKLOAD_TAP: RawFd = 16;
    /// The guest channel's tap.
    pub const CHANNEL_TAP: RawFd = 17;
    /// Device state, read at a restore.
    pub const STATE: RawFd = 18;
}

/// How the RAM is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Boot: writes go to the RAM file.
    Boot,
    /// Restore: copy on write, device state is loaded first.
    Restore,
}

/// Bytes of console kept, in QEMU's memory (a power of two).
pub const CONSOLE_BYTES: u32 = 64 * 1024;
/// Upper bound of a clone's translation cache, in MiB: it is memory of the clone's own.
const TRANSLATION_CACHE_MIB: u32 = 64;

/// The guest kernel's command line.
///
/// `tsc_early_khz` and `tsc=reliable`: without the first a boot on a busy host hangs in calibration, without the
/// second a guest with several CPUs falls back to ticking on every CPU. `panic=-1` and `reboot=t` turn a dead guest
/// into a shutdown event. `mitigations=off`: translated code is not what the host CPU speculates on, and the walls
/// that count are outside the guest.
fn kernel_command_line(tsc_khz: u64) -> String {
    format!(
        "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t tsc_early_khz={tsc_khz} tsc=reliable mitigations=off \
         random.trust_cpu=on 8250.nr_uarts=1 cryptomgr.notests"
    )
}

/// MAC addresses of the guest's two network devices.
#[derive(Debug, Clone, Copy)]
pub struct Macs<'a> {
    /// The workload's.
    pub workload: &'a str,
    /// The guest channel's.
    pub channel: &'a str,
}

/// The whole argument list.
pub fn command_line(shape: Shape, macs: Macs<'_>, tsc_khz: u64, start: Start) -> Vec<String> {
    let share = if start == Start::Boot { "on" } else { "off" };
    let memory = shape.memory_mib;
    let mut argv: Vec<String> = vec![PROGRAM.to_owned()];
    let mut option = |name: &str, value: String| argv.extend([format!("-{name}"), value]);
    option("name", "leapbox".to_owned());
    option("machine", "microvm,rtc=on,memory-backend=ram,suppress-vmdesc=on".to_owned());
    option("accel", format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}"));
    option("cpu", "max".to_owned());
    option("smp", shape.vcpus.to_string());
    option("m", format!("{memory}M"));
    let ram = format!("memory-backend-file,id=ram,size={memory}M,mem-path=/proc/self/fd/{},share={share}", fd::RAM);
    option("object", ram);
    option("kernel", format!("/proc/self/fd/{}", fd::KERNEL));
    option("initrd", format!("/proc/self/fd/{}", fd::INITRAMFS));
    option("append", kernel_command_line(tsc_khz));
    // A host disk that is full is an I/O error in the guest: by default QEMU would stop the machine, for good.
    for (name, fd, read_only) in [("root", fd::ROOTFS, "on"), ("disk", fd::DISK, "off")] {
        option("add-fd", format!("fd={fd},set={fd}"));
        let file = format!("driver=file,filename=/dev/fdset/{fd},locking=off,node-name={name}-file");
        option("blockdev", format!("{file},read-only={read_only},discard=unmap"));
        option("blockdev", format!("driver=raw,file={name}-file,node-name={name},read-only={read_only},discard=unmap"));
        option("device", format!("virtio-blk-device,drive={name},werror=report,rerror=report"));
    }
    for (name, fd, mac) in [("workload", fd::WORKLOAD_TAP, macs.workload), ("channel", fd::CHANNEL_TAP, macs.channel)] {
        option("netdev", format!("tap,id={name},fd={fd}"));
        option("device", format!("virtio-net-device,netdev={name},mac={mac}"));
    }
    option("object", "rng-builtin,id=rng".to_owned());
    option("device", "virtio-rng-device,rng=rng".to_owned());
    option("chardev", format!("ringbuf,id=console,size={CONSOLE_BYTES}"));
    option("serial", "chardev:console".to_owned());
    option("chardev", format!("socket,id=control,fd={},server=on,wait=off", fd::CONTROL));
    option("mon", "chardev=control,mode=control".to_owned());
    option("display", "none".to_owned());
    option("sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned());
    if start == Start::Restore {
        option("incoming", "defer".to_owned());
        // With `suppress-vmdesc` above: what is loaded is the devices' state and nothing around it.
        option("global", "migration.send-configuration=off".to_owned());
        // The state says that its machine was running: the guest still waits for `cont`.
        argv.push("-S".to_owned());
    }
    argv.extend(["-nodefaults", "-no-user-config", "-no-reboot", "-no-shutdown"].map(str::to_owned));
    argv
}
