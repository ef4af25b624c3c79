//! QEMU's command line. Every descriptor has a fixed number, so that the line is the same for every clone of a shape
//! and can be hashed into the compatibility key.

use super::runtime::PROGRAM;
use crate::shape::Shape;
use std::os::fd::RawFd;

/// Numbers of the descriptors that QEMU inherits.
pub mod fd {
    use super::RawFd;

    pub const KERNEL: RawFd = 10;
    pub const INITRAMFS: RawFd = 11;
    /// The template's root file system, read-only.
    pub const ROOTFS: RawFd = 12;
    /// The machine's writable disk.
    pub const DISK: RawFd = 13;
    /// The guest's RAM: a file of its own (boot) or the base's sealed memfd (restore).
    pub const RAM: RawFd = 14;
    /// The control socket, on which QEMU listens.
    pub const CONTROL: RawFd = 15;
    pub const WORKLOAD_TAP: RawFd = 16;
    pub const CHANNEL_TAP: RawFd = 17;
    /// The device state that a restore loads. A boot has none.
    pub const STATE: RawFd = 18;
}

/// The two ways to start a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The RAM file is mapped shared: it becomes the base's memory.
    Boot,
    /// The RAM is mapped copy-on-write, and the guest waits for its device state.
    Restore,
}

/// The size of the console's ring buffer in QEMU, in bytes. QEMU wants a power of two.
pub const CONSOLE_BYTES: u32 = 64 * 1024;
/// The largest size of a clone's translation cache in MiB. The cache is never shared: it bounds the memory that an idle
/// sandbox costs.
const TRANSLATION_CACHE_MIB: u32 = 64;

/// The guest kernel's command line. `tsc_khz` is the host's TSC rate, at which the guest's TSC runs under TCG.
fn kernel_command_line(tsc_khz: u64) -> String {
    // `tsc_early_khz`: without it the kernel calibrates the TSC and hangs in that whenever the host is busy.
    // `tsc=reliable`: with several vCPUs the kernel would take TCG's TSCs for unsynchronised and tick 250 times a
    // second on each; measured, 5.8 % of a core per idle sandbox instead of 2.2 %.
    // `panic=-1` and `reboot=t` turn a panic or a reboot into QEMU's event SHUTDOWN.
    // `mitigations=off`: the guest's code is translated and not run as it is, and sandboxes are isolated outside the
    // guest.
    format!(
        "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t tsc_early_khz={tsc_khz} tsc=reliable mitigations=off \
         random.trust_cpu=on 8250.nr_uarts=1 cryptomgr.notests"
    )
}

/// The MAC addresses of the guest's two network devices.
#[derive(Debug, Clone, Copy)]
pub struct Macs<'a> {
    pub workload: &'a str,
    pub channel: &'a str,
}

/// QEMU's argument list, the program first. That of a restore is part of the compatibility key, without its MAC
/// addresses: a change to it makes all existing bases and stored sandboxes unusable.
pub fn command_line(shape: Shape, macs: Macs<'_>, tsc_khz: u64, start: Start) -> Vec<String> {
    let share = if start == Start::Boot { "on" } else { "off" };
    let memory = shape.memory_mib;
    let mut argv: Vec<String> = vec![PROGRAM.to_owned()];
    let mut option = |name: &str, value: String| argv.extend([format!("-{name}"), value]);
    option("name", "leapbox".to_owned());
    option("machine", "microvm,rtc=on,memory-backend=ram,suppress-vmdesc=on".to_owned());
    option("accel", format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}"));
    // Everything that this build of TCG can emulate. It does not depend on the host's CPU.
    option("cpu", "max".to_owned());
    option("smp", shape.vcpus.to_string());
    option("m", format!("{memory}M"));
    let ram = format!("memory-backend-file,id=ram,size={memory}M,mem-path=/proc/self/fd/{},share={share}", fd::RAM);
    option("object", ram);
    option("kernel", format!("/proc/self/fd/{}", fd::KERNEL));
    option("initrd", format!("/proc/self/fd/{}", fd::INITRAMFS));
    option("append", kernel_command_line(tsc_khz));
    // `discard=unmap`: blocks that the guest frees become holes in the sparse file. `werror` and `rerror`: a full disk
    // of the host is reported to the guest as an I/O error; by default QEMU would stop the machine, and nobody would
    // start it again.
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
    // By getrandom(2): there is no /dev/urandom in QEMU's root.
    option("object", "rng-builtin,id=rng".to_owned());
    option("device", "virtio-rng-device,rng=rng".to_owned());
    // A ring in memory: however much the guest prints, it costs the host no more, and the guest never waits for a
    // reader.
    option("chardev", format!("ringbuf,id=console,size={CONSOLE_BYTES}"));
    option("serial", "chardev:console".to_owned());
    option("chardev", format!("socket,id=control,fd={},server=on,wait=off", fd::CONTROL));
    option("mon", "chardev=control,mode=control".to_owned());
    option("display", "none".to_owned());
    // QEMU's seccomp filter, on every thread. A QEMU that its guest has taken over can start no other program with it.
    option("sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned());
    if start == Start::Restore {
        option("incoming", "defer".to_owned());
        // With `suppress-vmdesc` above: `state::save` writes the devices alone, and QEMU would otherwise refuse a
        // stream without its configuration section and description.
        option("global", "migration.send-configuration=off".to_owned());
        // The state may say that its machine was running, and QEMU would then run the guest as soon as it is loaded.
        argv.push("-S".to_owned());
    }
    // `-no-reboot` turns a reboot into a shutdown, and `-no-shutdown` keeps the process after it, so that the end of
    // the console can still be read.
    argv.extend(["-nodefaults", "-no-user-config", "-no-reboot", "-no-shutdown"].map(str::to_owned));
    argv
}
