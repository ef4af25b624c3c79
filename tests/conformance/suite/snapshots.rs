//! Snapshots of running machines: what they cost, and that nothing is missing from them.

use crate::data::Data;
use crate::host;
use crate::pause::{assert_echoes, connect, echo_server};
use crate::rig::{LARGE, Rig, SMALL, conform, note};
use crate::taken::Taken;
use leapbox_vmm::Shape;

const MIB: u64 = 1 << 20;
/// What a guest's kernel and agent write beside what the test writes, in MiB.
pub const KERNEL_MIB: u64 = 16;
/// The same in a guest with eight processors, each of which has memory of its own.
const KERNEL_LARGE_MIB: u64 = 32;

/// Takes a snapshot of a sandbox that has random MiB in its memory, notes what it cost, and ends the machine.
async fn taken_after_writing(rig: &Rig, shape: Shape, mib: u64) -> Taken {
    let vm = rig.sandbox_of(shape).await;
    vm.sh(&format!("head -c {mib}M /dev/urandom > /dev/shm/written")).await;
    let taken = rig.take_snapshot(&vm).await;
    vm.machine.destroy().await.expect("it is destroyed");
    let (stored, took) = (taken.stored() as f64 / MIB as f64, taken.took.as_secs_f64() * 1e3);
    note(&format!("  {}: {stored:.1} MiB stored in {took:.1} ms", taken.base.shape));
    taken
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: 64 MiB of random bytes"]
fn a_snapshot_stores_what_was_written_and_little_more() {
    conform(async |rig| {
        let much = taken_after_writing(rig, SMALL, 64).await.stored();
        assert!(much >= 64 * MIB, "{much} bytes cannot hold 64 random MiB");
        assert!(much <= 64 * MIB * 6 / 5 + KERNEL_MIB * MIB, "{much} bytes for 64 MiB written");
        let little = taken_after_writing(rig, SMALL, 1).await.stored();
        assert!(little <= (1 + KERNEL_MIB) * MIB, "{little} bytes for 1 MiB written");
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: boots 8 GiB"]
fn what_a_snapshot_costs_does_not_follow_the_machines_size() {
    conform(async |rig| {
        let stored = taken_after_writing(rig, LARGE, 1).await.stored();
        assert!(stored <= (1 + KERNEL_LARGE_MIB) * MIB, "{stored} bytes for 1 MiB written");
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: boots two more shapes"]
fn the_same_changes_cost_the_same_in_1_gib_and_in_4() {
    conform(async |rig| {
        // How long it takes is compared by `make bench`, which has the machine to itself.
        let of = |memory_mib| taken_after_writing(rig, Shape { vcpus: 1, memory_mib }, 64);
        let stored = [of(1024).await, of(4096).await].map(|taken| taken.stored() as f64);
        let ratio = stored[1] / stored[0];
        note(&format!("  4 GiB to 1 GiB: {ratio:.2} times the bytes"));
        assert!(ratio <= 1.3, "{ratio:.2} times the bytes");
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

        let clone = rig.wake(&first).await;
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
        let clone = rig.wake(&second).await;
        data.assert_in(&clone).await;
        clone.lives_on(beat).await;

        let old = rig.wake(&first).await;
        let seen = old.sh("ls /dev/shm/second /home/user/second 2>&1 | grep -c 'No such file'").await;
        assert_eq!(seen, "2\n", "the first snapshot has not changed");
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: takes minutes; changes has two generations"]
fn case_37_every_generation_is_the_base_and_one_set_of_changes() {
    conform(async |rig| {
        let mut vm = rig.sandbox().await;
        let base = vm.snapshot.clone().expect("a clone");
        let mut data = Data::default();
        vm.start_heart().await;
        for generation in 1..=3 {
            data.write(&vm, &format!("generation{generation}"), 4).await;
            // Pages that change again and again.
            vm.sh(&format!("echo {generation} > /dev/shm/last; echo {generation} > ~/last; sync ~/last")).await;
            let beat = vm.beat().await;
            let taken = rig.take_snapshot(&vm).await;
            let limit = (8 * generation + KERNEL_MIB) * MIB * 6 / 5;
            let stored = taken.stored();
            assert!(stored <= limit, "generation {generation} stores {stored} bytes: more than was written");
            assert!(stored >= 4 * generation * MIB, "generation {generation} stores {stored} bytes: too little");
            assert_eq!(taken.base, base);
            vm.machine.destroy().await.expect("it is destroyed");
            vm = rig.wake(&taken).await;
            vm.lives_on(beat).await;
            data.assert_in(&vm).await;
            assert_eq!(vm.sh("cat /dev/shm/last ~/last").await, format!("{generation}\n{generation}\n"));
        }
        vm.machine.pause().await.expect("its disk comes to rest");
        vm.machine.destroy().await.expect("it is destroyed");
        host::assert_clean_file_system(&vm.disk);
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: boots 8 GiB"]
fn case_37_the_largest_machine_is_restored_with_changes_as_the_smallest_is() {
    conform(async |rig| {
        let mut vm = rig.sandbox_of(LARGE).await;
        let mut data = Data::default();
        for name in ["first", "second"] {
            data.write(&vm, name, 8).await;
            let taken = rig.take_snapshot(&vm).await;
            vm.machine.destroy().await.expect("it is destroyed");
            vm = rig.wake(&taken).await;
            data.assert_in(&vm).await;
        }
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
        let clone = rig.wake(&taken).await;
        assert_echoes(&mut connect(&clone).await, "the clone").await;
        assert_eq!(clone.sh("cat /sys/fs/ext4/*/errors_count").await, "0\n");
    });
}

#[test]
fn a_snapshot_that_fails_or_is_given_up_leaves_the_machine_as_it_was_and_the_next_one_is_right() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        let mut data = Data::default();
        data.write(&vm, "kept", 4).await;
        vm.machine.snapshot_diff().await.expect_err("it is not paused");
        data.assert_in(&vm).await;

        vm.machine.pause().await.expect("it is paused");
        let mut half = vm.machine.snapshot_diff().await.expect("a snapshot is taken");
        let first = tokio::task::spawn_blocking(move || half.memory.next()).await.expect("no panic");
        assert!(first.is_some_and(|first| first.is_ok()), "the rest is never read");
        let taken = rig.take_snapshot(&vm).await;
        vm.machine.resume().await.expect("it goes on");
        data.assert_in(&vm).await;
        data.assert_in(&rig.wake(&taken).await).await;
    });
}
