//! Checks KVM and the kernel under Firecracker: who may use /dev/kvm, how old the kernel is, and the settings that
//! Firecracker advises.

use super::check::Check;
use super::mounts::Mounts;
use super::read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The oldest host kernel that Firecracker is tested on (its docs/kernel-policy.md; 4.14 was dropped with 1.9).
const OLDEST_KERNEL: (u32, u32) = (5, 10);
/// Kernels on which the start of every machine may wait long for a lock of the cgroups: KVM moves a new thread between
/// cgroups, under a lock that favours readers. 6.0 changed the lock, and 6.13 the thread.
const SLOW_KERNELS: std::ops::Range<(u32, u32)> = (6, 0)..(6, 13);
const NX_HUGE_PAGES: &str = "sys/module/kvm/parameters/nx_huge_pages";

pub(super) fn checks(root: &Path) -> Vec<Check> {
    [device(root), kernel(root), huge_pages(root), nested(root)].into_iter().flatten().collect()
}

/// Who may use /dev/kvm. Whether it opens is checked with the driver.
fn device(root: &Path) -> Option<Check> {
    const NAME: &str = "/dev/kvm";
    let mode = std::fs::metadata(root.join("dev/kvm")).ok()?.permissions().mode() & 0o7777;
    if mode & 0o007 != 0 {
        let found = format!("everybody on this host may use it (mode {mode:04o}) and attack the kernel through it");
        let advice = "chmod 0660 /dev/kvm, and the same in the udev rule that says otherwise: leapbox runs as root";
        return Some(Check::yellow(NAME, found, advice));
    }
    Some(Check::green(NAME, format!("for root and its group alone (mode {mode:04o})")))
}

/// Reads the major and minor version of the running kernel.
fn release(root: &Path) -> Option<(u32, u32)> {
    let text = read(root, "proc/sys/kernel/osrelease")?;
    let mut parts = text.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

fn kernel(root: &Path) -> Option<Check> {
    const NAME: &str = "host kernel";
    let (major, minor) = release(root)?;
    if (major, minor) < OLDEST_KERNEL {
        let found = format!("{major}.{minor}, on which Firecracker is not tested");
        return Some(Check::yellow(NAME, found, "run 6.1 or a later long-term kernel"));
    }
    Some(Check::green(NAME, format!("{major}.{minor}; Firecracker asks for 5.10 or later")))
}

/// Whether KVM's `nx_huge_pages` suits this CPU and kernel: Firecracker's advice on "Linux 6.1 boot time regressions",
/// and against turning the mitigation off on a CPU that needs it.
fn huge_pages(root: &Path) -> Option<Check> {
    const NAME: &str = "nx_huge_pages";
    let setting = read(root, NX_HUGE_PAGES)?;
    let immune = read(root, "sys/devices/system/cpu/vulnerabilities/itlb_multihit")? == "Not affected";
    // First, because a host that a guest can stop is worse than a slow one.
    if !immune && ["N", "never"].contains(&setting.as_str()) {
        let found = format!("{setting}, and this CPU has the iTLB multihit fault: a guest can stop the whole host");
        let advice = "take nx_huge_pages and mitigations=off out of /etc/modprobe.d and the kernel's command line";
        return Some(Check::yellow(NAME, found, advice));
    }
    let slow = release(root).is_some_and(|kernel| SLOW_KERNELS.contains(&kernel));
    if setting == "never" || !slow || favours_changes(root) {
        return Some(Check::green(NAME, setting));
    }
    let found =
        format!("{setting}: on this kernel a machine's start may wait 100 ms and more for a lock of the cgroups");
    let advice = match (immune, Mounts::read(root).of_kind("cgroup2").any(|m| m.point == Path::new("/sys/fs/cgroup"))) {
        (true, _) => "echo 'options kvm nx_huge_pages=never' > /etc/modprobe.d/kvm-nx.conf, then load kvm again",
        (false, true) => "mount -o remount,favordynmods /sys/fs/cgroup",
        (false, false) => "boot with cgroup_favordynmods=true",
    };
    Some(Check::yellow(NAME, found, advice))
}

/// Whether the cgroups' lock favours changes over reading (`favordynmods`), by a mount option or from boot on.
fn favours_changes(root: &Path) -> bool {
    let mounts = Mounts::read(root);
    let mounted = ["cgroup2", "cgroup"].into_iter().any(|kind| mounts.of_kind(kind).any(|m| m.has("favordynmods")));
    let booted = read(root, "proc/cmdline").unwrap_or_default();
    mounted
        || booted.split_whitespace().any(|word| ["cgroup_favordynmods=true", "cgroup_favordynmods=1"].contains(&word))
}

fn nested(root: &Path) -> Option<Check> {
    const NAME: &str = "nested KVM";
    let of = |module: &'static str| {
        read(root, &format!("sys/module/{module}/parameters/nested")).map(|setting| (module, setting))
    };
    let (module, setting) = of("kvm_intel").or_else(|| of("kvm_amd"))?;
    if ["Y", "1"].contains(&setting.as_str()) {
        let found = "on: guests can reach code of the host's kernel that no sandbox needs";
        let advice =
            format!("echo 'options {module} nested=0' > /etc/modprobe.d/{module}-nested.conf, then load it again");
        return Some(Check::yellow(NAME, found, advice));
    }
    Some(Check::green(NAME, "off"))
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::super::fake_host::{chmod, host};
    use super::*;

    const BUG: &str = "sys/devices/system/cpu/vulnerabilities/itlb_multihit";
    const KERNEL: &str = "proc/sys/kernel/osrelease";

    fn huge_pages_of(files: &[(&str, &str)]) -> Check {
        huge_pages(host(files).path()).expect("a check")
    }

    #[test]
    fn a_kvm_device_for_everybody_is_flagged() {
        let root = host(&[("dev/kvm", "")]);
        chmod(&root, "dev/kvm", 0o666);
        assert_eq!(device(root.path()).expect("a check").level, Level::Yellow);
        chmod(&root, "dev/kvm", 0o660);
        assert_eq!(device(root.path()).expect("a check").level, Level::Green);
    }

    #[test]
    fn kernels_before_5_10_are_flagged() {
        for (release, level) in
            [("5.4.0-150-generic", Level::Yellow), ("5.10.0", Level::Green), ("6.1.0-49-amd64", Level::Green)]
        {
            assert_eq!(kernel(host(&[(KERNEL, release)]).path()).expect("a check").level, level, "{release}");
        }
    }

    #[test]
    fn a_cpu_without_the_fault_is_told_to_turn_the_mitigation_off_on_slow_kernels_alone() {
        let on = |release| huge_pages_of(&[(NX_HUGE_PAGES, "N\n"), (BUG, "Not affected\n"), (KERNEL, release)]);
        assert!(on("6.1.0-49-amd64").advice.expect("advice").contains("nx_huge_pages=never"));
        assert_eq!(on("5.10.0").level, Level::Green);
        assert_eq!(on("6.13.2").level, Level::Green);
        let never = [(NX_HUGE_PAGES, "never\n"), (BUG, "Not affected\n"), (KERNEL, "6.1.0")];
        assert_eq!(huge_pages_of(&never).level, Level::Green);
    }

    #[test]
    fn a_cpu_with_the_fault_is_told_to_keep_the_mitigation_and_change_the_lock() {
        let bug = "KVM: Mitigation: Split huge pages\n";
        let cgroup2 = "30 1 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let mitigated = [(NX_HUGE_PAGES, "Y\n"), (BUG, bug), (KERNEL, "6.1.0"), ("proc/self/mountinfo", cgroup2)];
        assert!(huge_pages_of(&mitigated).advice.expect("advice").contains("remount,favordynmods"));
        let off = [(NX_HUGE_PAGES, "never\n"), (BUG, "KVM: Vulnerable\n"), (KERNEL, "6.1.0")];
        assert!(huge_pages_of(&off).found.contains("a guest can stop the whole host"));
    }

    #[test]
    fn a_lock_that_favours_changes_is_enough() {
        let cgroup2 = "30 1 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,favordynmods\n";
        let by_mount =
            [(NX_HUGE_PAGES, "Y"), (BUG, "KVM: Mitigation"), (KERNEL, "6.1.0"), ("proc/self/mountinfo", cgroup2)];
        assert_eq!(huge_pages_of(&by_mount).level, Level::Green);
        let cmdline = "quiet cgroup_favordynmods=true";
        let at_boot = [(NX_HUGE_PAGES, "Y"), (BUG, "KVM: Mitigation"), (KERNEL, "6.1.0"), ("proc/cmdline", cmdline)];
        assert_eq!(huge_pages_of(&at_boot).level, Level::Green);
    }

    #[test]
    fn nested_virtualisation_is_flagged_and_a_host_without_kvm_hears_nothing() {
        let amd = host(&[("sys/module/kvm_amd/parameters/nested", "1\n")]);
        assert!(nested(amd.path()).expect("a check").advice.expect("advice").contains("kvm_amd nested=0"));
        let intel = host(&[("sys/module/kvm_intel/parameters/nested", "N\n")]);
        assert_eq!(nested(intel.path()).expect("a check").level, Level::Green);
        assert_eq!(checks(host(&[]).path()), []);
    }
}
