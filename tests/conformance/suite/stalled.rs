//! VMMs that stand still do not hold up who wants a snapshot of them.

use crate::rig::{Rig, conform, note};
use crate::vm::Vm;
use crate::waiting::{SOON, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::Arc;
use std::time::Duration;

/// Long enough to have asked a VMM for something.
const ASKED: Duration = Duration::from_millis(200);

/// A paused machine with more to read than one run.
async fn paused(rig: &Rig) -> Vm {
    let vm = rig.sandbox().await;
    vm.sh("head -c 16M /dev/urandom > /dev/shm/written").await;
    vm.machine.pause().await.expect("it is paused");
    vm
}

fn stop(vm: &Vm) {
    kill(Pid::from_raw(vm.pid()), Signal::SIGSTOP).expect("it stands still");
}

#[test]
fn a_vmm_that_stands_still_does_not_hold_up_who_reads_its_memory() {
    conform(async |rig| {
        let vm = paused(rig).await;
        let mut diff = vm.machine.snapshot_diff().await.expect("a snapshot is taken");
        stop(&vm);
        let reading = tokio::task::spawn_blocking(move || (diff.memory.next(), diff));
        let (first, mut diff) = within(SOON, "its memory is read all the same", reading).await.expect("no panic");
        assert!(first.is_some_and(|run| run.is_ok()));
        vm.machine.destroy().await.expect("it is destroyed");
        let reading = tokio::task::spawn_blocking(move || (diff.memory.next(), diff.memory.next()));
        let (next, end) = within(SOON, "the rest of it", reading).await.expect("no panic");
        assert!(next.is_some_and(|run| run.is_err()), "the memory of a machine that is gone");
        assert!(end.is_none_or(|run| run.is_err()), "it goes on");
    });
}

#[test]
fn taking_a_snapshot_of_a_vmm_that_stands_still_ends_with_the_machine() {
    conform(async |rig| {
        let vm = paused(rig).await;
        stop(&vm);
        let machine = Arc::clone(&vm.machine);
        let taking = tokio::spawn(async move { machine.snapshot_diff().await.map(drop) });
        // As far as the question, which nobody answers.
        tokio::time::sleep(ASKED).await;
        vm.machine.destroy().await.expect("it is destroyed");
        let told = within(SOON, "the snapshot ends", taking).await.expect("no panic");
        note(&format!("  destroyed while its snapshot was taken: {}", told.expect_err("there is nothing to keep")));
        rig.assert_nothing_left_of(&vm.confinement).await;
    });
}
