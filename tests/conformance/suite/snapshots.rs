//! Snapshots of running machines: what they cost, and that nothing is missing from them.

use crate::host;
use crate::pause::{assert_echoes, connect, echo_server};
use crate::rig::{LARGE, Rig, SMALL, conform, note};
use crate::taken::Taken;
use crate::vm::Vm;
use leapbox_vmm::Shape;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// What a guest's kernel and agent write beside what the test writes, in MiB.
const KERNEL_MIB: u64 = 16;
/// The same in a guest with eight processors, each of which has memory of its own.
const KERNEL_LARGE_MIB: u64 = 32;
/// What finding the changes in 8 GiB may take longer than in 512 MiB.
const LARGE_LONGER: Duration = Duration::from_millis(1500);

/// Files in the guest's memory and on its disk, and what must be in them: lines as `sha256sum` prints them.
#[derive(Default)]
struct Data {
    sums: String,
}

impl Data {
    /// Writes random MiB to a new file in the guest's memory and, synced, to one on its disk.
    async fn write(&mut self, vm: &Vm, name: &str, mib: u64) {
        let (memory, disk) = (format!("/dev/shm/{name}"), format!("/home/user/{name}"));
        let write = |path: &str| format!("head -c {mib}M /dev/urandom > {path}");
        let sums = format!("{}; {}; sync {disk}; sha256sum {memory} {disk}", write(&memory), write(&disk));
        self.sums += &vm.sh(&sums).await;
    }

    /// Checks all of it, the disk's files as they are on the disk.
    async fn assert_in(&self, vm: &Vm) {
        let files: Vec<&str> = self.sums.lines().filter_map(|line| line.split_ascii_whitespace().last()).collect();
        let seen = vm.root(&format!("echo 1 > /proc/sys/vm/drop_caches; sha256sum {}", files.join(" "))).await;
        assert_eq!(seen, self.sums, "in {}", vm.hostname());
        assert_eq!(vm.sh("cat /sys/fs/ext4/*/errors_count").await, "0\n");
    }
}

async fn taken_after_writing(rig: &Rig, shape: Shape, mib: u64) -> Taken {
    let vm = rig.sandbox_of(shape).await;
    vm.sh(&format!("head -c {mib}M /dev/urandom > /dev/shm/written")).await;
    let taken = rig.take_snapshot(&vm).await;
    vm.machine.destroy().await.expect("it is destroyed");
    let (stored, took) = (taken.stored as f64 / MIB as f64, taken.took.as_millis());
    note(&format!("  {shape}, {mib} MiB written: {stored:.1} MiB stored in {took} ms"));
    taken
}

#[test]
fn a_snapshot_stores_what_was_written_and_little_more() {
    conform(async |rig| {
        let much = taken_after_writing(rig, SMALL, 64).await.stored;
        assert!(much >= 64 * MIB, "{much} bytes cannot hold 64 random MiB");
        assert!(much <= 64 * MIB * 6 / 5 + KERNEL_MIB * MIB, "{much} bytes for 64 MiB written");
        let little = taken_after_writing(rig, SMALL, 1).await.stored;
        assert!(little <= (1 + KERNEL_MIB) * MIB, "{little} bytes for 1 MiB written");
    });
}

#[test]
fn what_a_snapshot_costs_does_not_follow_the_machines_size() {
    conform(async |rig| {
        let small = taken_after_writing(rig, SMALL, 1).await;
        let large = taken_after_writing(rig, LARGE, 1).await;
        assert!(large.stored <= (1 + KERNEL_LARGE_MIB) * MIB, "{} bytes for 1 MiB written", large.stored);
        assert!(large.took <= small.took * 3 + LARGE_LONGER, "{:?}, and {:?} for 512 MiB", large.took, small.took);
    });
}

#[test]
fn case_37_a_restored_machine_is_the_one_that_was_paused_and_that_one_goes_on() {
    conform(async |rig| {
        let source = rig.sandbox().await;
        let mut data = Data::default();
        data.write(&source, "first", 8).await;
        source.start_heart().await;
        let beat = source.beat().await;
        let first = rig.take_snapshot(&source).await;

        let clone = rig.wake(&first.snapshot).await;
        clone.lives_on(beat).await;
        data.assert_in(&clone).await;
        clone.machine.pause().await.expect("its disk comes to rest");
        clone.machine.destroy().await.expect("it is destroyed");
        host::assert_clean_file_system(&clone.disk);

        source.machine.resume().await.expect("the source goes on");
        source.lives_on(beat).await;
        data.write(&source, "second", 4).await;
        let second = rig.take_snapshot(&source).await;
        source.machine.destroy().await.expect("it is destroyed");
        let clone = rig.wake(&second.snapshot).await;
        data.assert_in(&clone).await;
        clone.lives_on(beat).await;

        let old = rig.wake(&first.snapshot).await;
        let seen = old.sh("ls /dev/shm/second /home/user/second 2>&1 | grep -c 'No such file'").await;
        assert_eq!(seen, "2\n", "the first snapshot has not changed");
    });
}

#[test]
fn case_37_a_chain_of_snapshots_keeps_everything() {
    conform(async |rig| {
        let mut vm = rig.sandbox().await;
        let mut data = Data::default();
        vm.start_heart().await;
        for link in 1..=3 {
            data.write(&vm, &format!("link{link}"), 4).await;
            // Pages that change again and again.
            vm.sh(&format!("echo {link} > /dev/shm/last; echo {link} > ~/last; sync ~/last")).await;
            let beat = vm.beat().await;
            let taken = rig.take_snapshot(&vm).await;
            let limit = (8 + KERNEL_MIB) * MIB * 6 / 5;
            assert!(taken.stored <= limit, "link {link} stores {} bytes: more than was written", taken.stored);
            vm.machine.destroy().await.expect("it is destroyed");
            vm = rig.wake(&taken.snapshot).await;
            vm.lives_on(beat).await;
            data.assert_in(&vm).await;
            assert_eq!(vm.sh("cat /dev/shm/last ~/last").await, format!("{link}\n{link}\n"));
        }
        vm.machine.pause().await.expect("its disk comes to rest");
        vm.machine.destroy().await.expect("it is destroyed");
        host::assert_clean_file_system(&vm.disk);
    });
}

#[test]
fn case_38_a_machine_that_was_busy_when_its_snapshot_was_taken_answers_afterwards() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        let _open = echo_server(&vm).await;
        vm.start("while :; do head -c 4M /dev/urandom > /home/user/busy; sync /home/user/busy; done").await;
        let taken = rig.take_snapshot(&vm).await;
        vm.machine.resume().await.expect("it goes on");
        assert_echoes(&mut connect(&vm).await, "the source").await;
        let clone = rig.wake(&taken.snapshot).await;
        assert_echoes(&mut connect(&clone).await, "the clone").await;
        assert_eq!(clone.sh("cat /sys/fs/ext4/*/errors_count").await, "0\n");
    });
}

#[test]
fn a_snapshot_that_fails_leaves_the_machine_as_it_was_and_the_next_one_is_right() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        let mut data = Data::default();
        data.write(&vm, "kept", 4).await;
        vm.machine.pause().await.expect("it is paused");

        let missing = rig.new_dir().join("missing");
        vm.machine.snapshot_diff(&missing).await.expect_err("there is no such folder");
        assert!(!missing.exists(), "it is nobody's to make");
        for taken in ["memory", "state"] {
            let dir = rig.new_dir();
            std::fs::write(dir.join(taken), "somebody's").expect("a file");
            vm.machine.snapshot_diff(&dir).await.expect_err("there is something already");
            assert_eq!(std::fs::read(dir.join(taken)).expect("a file"), b"somebody's");
        }
        let taken = rig.take_snapshot(&vm).await;
        vm.machine.resume().await.expect("it goes on");
        data.assert_in(&vm).await;
        data.assert_in(&rig.wake(&taken.snapshot).await).await;
    });
}
