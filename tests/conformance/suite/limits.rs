//! Sizes: the smallest, the largest, and beyond.

use crate::rig::{LARGE, Rig, SMALL, conform, note, refusal};
use leapbox_vmm::{IoLimits, Shape, VmmError};
use std::time::{Duration, Instant};

/// What of its memory a guest's kernel keeps for itself at most, in parts of a hundred.
const KERNEL_SHARE: u64 = 15;
/// A limit in bytes per second, and how long four times as many must take at least: a bucket that is full at the start
/// lets one second's worth pass at once.
const BYTES_PER_S: u64 = 2_000_000;
const AT_LEAST: Duration = Duration::from_millis(2500);

async fn assert_has_its_size(rig: &Rig, shape: Shape) {
    let vm = rig.sandbox_of(shape).await;
    assert_eq!(vm.machine.record().shape, shape);
    assert_eq!(vm.sh("nproc").await, format!("{}\n", shape.vcpus));
    let told = vm.sh("grep MemTotal /proc/meminfo").await;
    let total: u64 = told.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB");
    let nominal = u64::from(shape.memory_mib) << 10;
    assert!(total <= nominal && total >= nominal * (100 - KERNEL_SHARE) / 100, "{shape}: {total} KiB");
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: most others use that size"]
fn the_smallest_machine_boots_and_is_restored_with_its_size() {
    conform(async |rig| assert_has_its_size(rig, SMALL).await);
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: boots 8 GiB"]
fn the_largest_machine_boots_and_is_restored_with_its_size() {
    conform(async |rig| assert_has_its_size(rig, LARGE).await);
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: boots 8 GiB"]
fn every_processor_of_a_restored_machine_works() {
    conform(async |rig| {
        let vm = rig.sandbox_of(LARGE).await;
        let command = "for cpu in $(seq 0 7); do taskset -c $cpu sh -c 'echo $0' $cpu & done; wait";
        let mut told: Vec<String> = vm.sh(command).await.lines().map(str::to_owned).collect();
        told.sort();
        assert_eq!(told, ["0", "1", "2", "3", "4", "5", "6", "7"]);
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: checked before the driver"]
fn a_size_that_no_machine_has_is_refused_and_leaves_nothing() {
    conform(async |rig| {
        let place = rig.place(None).await;
        for (vcpus, memory_mib) in [(0, 512), (9, 512), (1, 0), (1, 510), (1, 513), (8, 8194), (u8::MAX, u32::MAX)] {
            let dir = rig.new_dir();
            let error = refusal(rig.boot_at(&place, Shape { vcpus, memory_mib }, dir.clone()).await);
            assert!(matches!(error, VmmError::Shape { .. }), "{error}");
            rig.assert_nothing_left_of(&place.confinement).await;
            assert_eq!(std::fs::read_dir(&dir).expect("the folder").count(), 0, "files for a machine that never was");
        }
    });
}

#[test]
fn what_a_machine_moves_is_held_to_its_limits_where_the_driver_can() {
    conform(async |rig| {
        let limits = IoLimits {
            disk_bytes_per_s: Some(BYTES_PER_S),
            network_bytes_per_s: Some(BYTES_PER_S),
            ..IoLimits::default()
        };
        let vm = rig.limited_sandbox(limits).await;
        if !rig.vmm().capabilities().io_limits {
            note("  this driver limits nothing");
            assert_eq!(vm.sh("echo unharmed").await, "unharmed\n");
            return;
        }
        let bytes = 4 * BYTES_PER_S;
        let write = format!("head -c {bytes} /dev/zero > ~/much && sync ~/much");
        let fetch = format!("curl -s --max-time 50 http://example.com/bytes/{bytes} | wc -c");
        for (what, command) in [("disk", write), ("network", fetch)] {
            let started = Instant::now();
            vm.sh(&command).await;
            let took = started.elapsed();
            note(&format!("  {what}: {bytes} bytes at {BYTES_PER_S} a second took {} ms", took.as_millis()));
            assert!(took >= AT_LEAST, "{what}: only {took:?}");
        }
    });
}
