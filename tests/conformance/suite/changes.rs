//! Machines restored from a base and changes: what is refused, what they cost, and whose diff is complete.

use crate::data::Data;
use crate::rig::{Place, Rig, SMALL, conform, note, refusal};
use crate::snapshots::KERNEL_MIB;
use crate::taken::Taken;
use crate::waiting::{PATIENCE, within};
use leapbox_bases::BaseKind;
use leapbox_guest_protocol::Phase;
use leapbox_storage::{Run, Runs};
use leapbox_vmm::{DiffSnapshot, VmmError};
use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;
/// What an idle clone may have of its own (SPECIFICATION.md), under emulation and on the CPU itself.
const OWN_MIB: [u64; 2] = [64, 8];
/// How long a guest that runs may take to answer, while a source of changes keeps its reader waiting.
const HELD: Duration = Duration::from_secs(3);

/// A small sandbox that has written, and what was taken of it.
async fn taken(rig: &Rig, mib: u64) -> (Taken, Data) {
    let vm = rig.sandbox().await;
    let mut data = Data::default();
    data.write(&vm, "first", mib).await;
    let taken = rig.take_snapshot(&vm).await;
    vm.machine.destroy().await.expect("it is destroyed");
    (taken, data)
}

/// Tries to restore, which must fail in time and leave nothing behind.
async fn refused(rig: &Rig, place: &Place, taken: &Taken, changes: DiffSnapshot, what: &str) -> VmmError {
    let outcome = within(PATIENCE, what, rig.restore_changed_at(place, &taken.base, changes)).await;
    let error = refusal(outcome);
    note(&format!("  {what}: {error}"));
    rig.assert_nothing_left_of(&place.confinement).await;
    error
}

async fn refused_memory(rig: &Rig, taken: &Taken, memory: Runs, what: &str) -> VmmError {
    let place = rig.place(Some(&taken.disk)).await;
    refused(rig, &place, taken, DiffSnapshot { memory, state: taken.state.clone() }, what).await
}

#[test]
fn case_37_a_diff_taken_by_another_server_has_what_its_machine_was_restored_with() {
    conform(async |rig| {
        let (first, mut data) = taken(rig, 4).await;
        let adopted = rig.adopt(&rig.orphan_of(&first).await).await;
        data.write(&adopted, "second", 4).await;
        let second = rig.take_snapshot(&adopted).await;
        assert!(second.stored() >= 2 * 4 * MIB, "{} bytes", second.stored());
        adopted.machine.destroy().await.expect("it is destroyed");
        let third = rig.wake(&second).await;
        data.assert_in(&third).await;
    });
}

#[test]
fn changes_that_were_never_touched_again_are_in_the_next_diff_byte_for_byte() {
    conform(async |rig| {
        let (first, data) = taken(rig, 8).await;
        let again = rig.restore(&first).await;
        let second = rig.take_snapshot(&again).await;
        let page = |taken: &Taken, at: u64| {
            let run = taken.memory.iter().rfind(|run| run.offset <= at)?;
            run.bytes.get(usize::try_from(at - run.offset).ok()?..)?.get(..PAGE).map(<[u8]>::to_vec)
        };
        let pages = first.memory.iter().flat_map(|run| (run.offset..).step_by(PAGE).zip(run.bytes.chunks(PAGE)));
        let (mut same, mut changed) = (0_u64, 0_u64);
        for (at, bytes) in pages {
            let now = page(&second, at).unwrap_or_else(|| panic!("the page at {at:#x} is missing"));
            if now == bytes { same += 1 } else { changed += 1 }
        }
        note(&format!("  restored with {} pages: {same} were as they came, {changed} written since", same + changed));
        assert!(same * PAGE as u64 >= 8 * MIB, "only {same} pages are as they were");
        again.machine.resume().await.expect("it goes on");
        again.go_on().await;
        data.assert_in(&again).await;
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: the agent does this, whatever the driver"]
fn case_37_a_machine_that_was_suspended_wakes_as_who_it_was() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        let mut data = Data::default();
        data.write(&vm, "kept", 1).await;
        vm.start_heart().await;
        let beat = vm.beat().await;
        let who = "cat /etc/machine-id /proc/sys/kernel/random/boot_id";
        let was = vm.sh(who).await;
        assert!(vm.guest.suspend().await.expect("an answer").frozen);
        let taken = rig.take_snapshot(&vm).await;
        vm.machine.destroy().await.expect("it is destroyed");
        let woken = rig.restore(&taken).await;
        let pong = woken.guest.wait_ready(PATIENCE).await.expect("its agent answers");
        assert_eq!(pong.phase, Phase::Suspended);
        woken.go_on().await;
        woken.lives_on(beat).await;
        assert_eq!(woken.sh(who).await, was);
        data.assert_in(&woken).await;
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: it boots another base, which takes a minute there"]
fn a_machine_of_a_base_without_a_disk_mounts_the_one_it_is_given_and_differs_from_that_base() {
    conform(async |rig| {
        let source = rig.sandbox().await;
        source.sh("head -c 1M /dev/urandom > ~/kept; sync ~/kept").await;
        let hash = source.hash("~/kept").await;
        let disk = rig.take_snapshot(&source).await.disk;
        source.machine.destroy().await.expect("it is destroyed");

        let bare = rig.world.base(SMALL, BaseKind::Diskless).await;
        let place = rig.place(Some(&disk)).await;
        let vm = rig.restore_at(&place, &bare).await.expect("a clone starts");
        assert_eq!(vm.guest.wait_ready(PATIENCE).await.expect("its agent answers").phase, Phase::Diskless);
        vm.guest.mount().await.expect("it finds its disks");
        vm.configure().await;
        assert_eq!(vm.hash("~/kept").await, hash);
        let mut data = Data::default();
        data.write(&vm, "more", 2).await;

        let taken = rig.take_snapshot(&vm).await;
        assert_eq!(taken.base, bare);
        vm.machine.destroy().await.expect("it is destroyed");
        let woken = rig.wake(&taken).await;
        assert_eq!(woken.hash("~/kept").await, hash);
        data.assert_in(&woken).await;
    });
}

#[test]
fn case_39_changes_that_cannot_be_read_to_their_end_leave_nothing_and_their_guest_never_runs() {
    conform(async |rig| {
        let (taken, _) = taken(rig, 8).await;
        let place = rig.place(Some(&taken.disk)).await;
        let half = taken.memory.len() / 2;
        let begun: Vec<Run> = taken.memory.iter().take(half).cloned().collect();
        let (reached, (asked, may_fail)) = (Arc::new(Notify::new()), mpsc::channel());
        let broken = std::iter::once_with({
            let reached = Arc::clone(&reached);
            move || {
                reached.notify_one();
                // Until the guest has been asked for long enough.
                let _ = may_fail.recv_timeout(PATIENCE);
                Err(io::Error::new(io::ErrorKind::InvalidData, "frame 7 is damaged"))
            }
        });
        let memory = Box::new(begun.into_iter().map(Ok).chain(broken));
        let changes = DiffSnapshot { memory, state: taken.state.clone() };
        let guest = place.guest.clone().with_deadline(HELD);
        let asking = async {
            within(PATIENCE, "the changes are read", reached.notified()).await;
            let answer = guest.wait_ready(HELD).await;
            let _ = asked.send(());
            answer
        };
        let (error, answer) = tokio::join!(refused(rig, &place, &taken, changes, "an error in the middle"), asking);
        assert!(answer.is_err(), "a guest runs whose memory is not there yet");
        assert!(matches!(&error, VmmError::Changes { source } if source.to_string().contains("frame 7")), "{error:?}");
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: unit tests of the crate vmm"]
fn case_39_runs_outside_the_memory_unaligned_or_overlapping_are_refused() {
    conform(async |rig| {
        let (taken, _) = taken(rig, 1).await;
        let ram = SMALL.memory_bytes();
        let run = |offset, length| Run { offset, bytes: vec![0xa5; length] };
        let first = || taken.memory[0].clone();
        // The others are refused by the same check: crates/vmm/src/memory/changes.rs.
        let cases = [
            ("a run across its end", vec![first(), run(ram - PAGE as u64, 2 * PAGE)]),
            ("a run over the one before", vec![first(), first()]),
        ];
        for (what, runs) in cases {
            let error = refused_memory(rig, &taken, Box::new(runs.into_iter().map(Ok)), what).await;
            assert!(matches!(error, VmmError::Change { .. }), "{what}: {error:?}");
        }
        assert_eq!(rig.wake(&taken).await.sh("echo unharmed").await, "unharmed\n");
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: artifacts::case_39 with a state file"]
fn case_39_a_state_that_is_damaged_is_refused_with_changes_too() {
    conform(async |rig| {
        let (taken, _) = taken(rig, 1).await;
        let whole = &taken.state;
        let garbled = whole.iter().map(|byte| byte ^ 0xa5).collect();
        let cases = [("a garbled state", garbled), ("a state without end", vec![0; (16 << 20) + 1])];
        for (what, state) in cases {
            let place = rig.place(Some(&taken.disk)).await;
            refused(rig, &place, &taken, DiffSnapshot { state, ..taken.changes() }, what).await;
        }
    });
}

#[test]
fn a_woken_machine_shares_its_base_and_costs_what_its_changes_do() {
    conform(async |rig| {
        let (taken, data) = taken(rig, 1).await;
        let began = Instant::now();
        let woken = rig.wake(&taken).await;
        let took = began.elapsed().as_millis();
        let own = woken.machine.private_bytes().expect("its memory");
        let virtualised = rig.vmm().capabilities().hardware_virtualisation;
        let bound = OWN_MIB[usize::from(virtualised)] * MIB + taken.stored();
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        note(&format!("  {:.1} MiB of changes, awake in {took} ms: {:.1} MiB its own", mib(taken.stored()), mib(own)));
        assert!(taken.stored() <= (1 + 1 + KERNEL_MIB) * MIB, "{} bytes of changes", taken.stored());
        assert!(own <= bound, "{own} bytes, and {bound} are promised");
        data.assert_in(&woken).await;
    });
}
