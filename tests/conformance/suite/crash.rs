//! Machines that end without being asked to.

use crate::host;
use crate::rig::{Rig, conform, note};
use crate::taken::read;
use crate::vm::Vm;
use crate::waiting::{PATIENCE, SOON, eventually, within};
use leapbox_vmm::ExitReason;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const GARBAGE: &[u8] = include_bytes!("guest/garbage.py");
/// What that program says on the console when it has come to its end.
const GARBAGE_DONE: &str = "garbage: done";

fn kill_9(vm: &Vm) {
    kill(Pid::from_raw(vm.pid()), Signal::SIGKILL).expect("it is killed");
}

async fn end_of(vm: &Vm) -> ExitReason {
    within(SOON, "the end is told", vm.machine.exited()).await
}

async fn assert_can_be_removed(rig: &Rig, vm: &Vm) {
    vm.machine.destroy().await.expect("what is left is removed");
    rig.assert_nothing_left_of(&vm.confinement).await;
}

#[test]
fn case_43_a_killed_vmm_is_told_with_its_signal_and_its_neighbour_goes_on() {
    conform(async |rig| {
        let (victim, neighbour) = rig.neighbours().await;
        neighbour.start_heart().await;
        let beat = neighbour.beat().await;
        kill_9(&victim);
        let (one, two) = tokio::join!(end_of(&victim), end_of(&victim));
        assert_eq!(one, ExitReason::Signalled { signal: 9 });
        assert_eq!(two, one, "everybody is told the same");
        assert_eq!(end_of(&victim).await, one, "and later, too");
        victim.machine.pause().await.expect_err("there is nothing to pause");
        assert_can_be_removed(rig, &victim).await;
        neighbour.lives_on(beat).await;
    });
}

#[test]
fn case_43_a_vmm_that_is_killed_while_it_is_paused_is_noticed_too() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        vm.machine.pause().await.expect("it is paused");
        kill_9(&vm);
        assert_eq!(end_of(&vm).await, ExitReason::Signalled { signal: 9 });
        vm.machine.resume().await.expect_err("there is nothing to resume");
        vm.machine.snapshot_diff().await.expect_err("there is nothing to keep");
        assert_can_be_removed(rig, &vm).await;
    });
}

#[test]
fn case_43_a_vmm_that_is_killed_while_its_snapshot_is_taken_does_not_keep_anybody_waiting() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        vm.sh("head -c 64M /dev/urandom > /dev/shm/written").await;
        vm.machine.pause().await.expect("it is paused");
        let mut diff = vm.machine.snapshot_diff().await.expect("a snapshot is taken");
        let half_way = tokio::task::spawn_blocking(move || (diff.memory.next(), diff)).await;
        let (first, diff) = half_way.expect("no panic");
        assert!(first.is_some_and(|first| first.is_ok()), "the snapshot is begun");
        kill_9(&vm);
        let told = within(PATIENCE, "the snapshot ends", read(diff)).await.expect_err("half of it is missing");
        note(&format!("  killed while its snapshot was taken: {told}"));
        vm.machine.snapshot_diff().await.expect_err("there is nothing to keep");
        assert_eq!(end_of(&vm).await, ExitReason::Signalled { signal: 9 });
        assert_can_be_removed(rig, &vm).await;
    });
}

#[test]
fn case_43_a_guest_that_restarts_itself_is_told_as_that() {
    conform(async |rig| {
        let (vm, neighbour) = rig.neighbours().await;
        vm.start("echo b > /proc/sysrq-trigger").await;
        let reason = within(PATIENCE, "the end is told", vm.machine.exited()).await;
        assert!(matches!(reason, ExitReason::GuestShutdown { .. }), "{reason:?}");
        assert_can_be_removed(rig, &vm).await;
        assert_eq!(neighbour.sh("echo fine").await, "fine\n");
    });
}

#[test]
fn case_43_a_guest_whose_kernel_panics_is_told_with_the_end_of_its_console() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        vm.start("echo c > /proc/sysrq-trigger").await;
        match within(PATIENCE, "the end is told", vm.machine.exited()).await {
            ExitReason::GuestShutdown { console } => assert!(console.contains("Kernel panic"), "{console}"),
            reason => panic!("{reason:?}"),
        }
        assert_can_be_removed(rig, &vm).await;
    });
}

#[test]
fn case_01_garbage_in_the_virtio_queues_ends_at_worst_its_own_vmm() {
    conform(async |rig| {
        let (vm, neighbour) = rig.neighbours().await;
        neighbour.start_heart().await;
        let beat = neighbour.beat().await;
        vm.guest.write_file("/dev/shm/garbage.py", None, GARBAGE).await.expect("written");
        vm.start("python3 /dev/shm/garbage.py > /dev/console 2>&1").await;
        let survived = async {
            let done = async || {
                let told = vm.machine.console_tail().await;
                if told.contains(GARBAGE_DONE) { Ok(()) } else { Err(format!("the console ends: {told}")) }
            };
            eventually("the guest has written its garbage", PATIENCE, done).await;
        };
        tokio::select! {
            reason = vm.machine.exited() => {
                note(&format!("  the VMM ended: {reason}"));
                assert!(!matches!(reason, ExitReason::Gone), "no reason is told");
            }
            () = survived => {
                note("  the VMM survived");
                assert!(host::exists(vm.pid()));
            }
        }
        assert_can_be_removed(rig, &vm).await;
        neighbour.lives_on(beat).await;
        let later = rig.sandbox().await;
        assert_eq!(later.sh("echo fine").await, "fine\n");
    });
}
