//! Many machines from one snapshot: quick, cheap, and each somebody else.

use crate::host;
use crate::rig::{SMALL, conform, note};
use crate::vm::Vm;
use crate::waiting::{PATIENCE, eventually};
use futures::future::join_all;
use leapbox_guest_client::GuestError;
use leapbox_guest_protocol::{FaultKind, Phase};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Clones at once, and in a brief run, which leaves out the ignored tests. `LEAPBOX_TEST_CLONES` says otherwise, as in
/// the end-to-end tests.
const CLONES: usize = 10;
const BRIEF_CLONES: usize = 3;
/// How far a guest's clock may be off (case 36), in seconds.
const CLOCK_TOLERANCE: f64 = 2.0;
/// What an idle clone may have of its own beside the pages it shares (SPECIFICATION.md).
const VIRTUALISED_MIB: u64 = 8;
const EMULATED_MIB: u64 = 64;

/// What must differ. bash takes `SRANDOM` from getrandom(2).
const IDENTITY: &str = "
echo kernel-uuid $(cat /proc/sys/kernel/random/uuid)
echo urandom $(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n')
echo getrandom $(bash -c 'echo $SRANDOM-$SRANDOM-$SRANDOM')
echo machine-id $(cat /etc/machine-id)
echo boot-id $(cat /proc/sys/kernel/random/boot_id)
echo hostname $(hostname)
";

fn clone_count() -> usize {
    let is_brief = !std::env::args().any(|argument| argument == "--include-ignored");
    match std::env::var("LEAPBOX_TEST_CLONES") {
        Ok(count) => count.parse().expect("LEAPBOX_TEST_CLONES is a number"),
        Err(_) if is_brief => BRIEF_CLONES,
        Err(_) => CLONES,
    }
}

#[test]
fn case_35_clones_at_once_have_randomness_and_identity_of_their_own() {
    conform(async |rig| {
        rig.world.warm(SMALL).await;
        let (started, count) = (Instant::now(), clone_count());
        assert!(count >= 2, "one has nobody to share with");
        let clones = rig.sandboxes(count).await;
        note(&format!("  {count} clones at once: {} ms until the last knew who it is", started.elapsed().as_millis()));
        let told = join_all(clones.iter().map(|vm| vm.sh(IDENTITY))).await;
        let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (kind, value) in told.iter().flat_map(|text| text.lines()).filter_map(|line| line.split_once(' ')) {
            assert!(!value.is_empty(), "{kind} is empty");
            values.entry(kind).or_default().insert(value);
        }
        assert_eq!(values.len(), 6, "{values:?}");
        for (kind, distinct) in &values {
            assert_eq!(distinct.len(), count, "{kind} is shared: {distinct:?}");
        }
        for (vm, text) in clones.iter().zip(&told) {
            assert!(text.contains(&format!("hostname {}\n", vm.hostname())), "{text}");
        }
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: the agent does this, whatever the driver"]
fn case_35_a_clone_that_was_not_told_who_it_is_runs_nothing() {
    conform(async |rig| {
        let vm = rig.clone_of(&rig.world.warm(SMALL).await).await;
        let pong = vm.guest.wait_ready(PATIENCE).await.expect("its agent answers");
        assert_eq!(pong.phase, Phase::Unconfigured);
        match vm.exec("cat /proc/sys/kernel/random/uuid").await {
            Err(GuestError::Fault(fault)) => assert_eq!(fault.kind, FaultKind::Busy),
            other => panic!("{other:?}"),
        }
        vm.configure().await;
        assert_eq!(vm.sh("echo now").await, "now\n");
    });
}

#[test]
fn case_36_after_a_restore_the_wall_clock_is_right_and_monotonic_time_has_not_run_back() {
    conform(async |rig| {
        let source = rig.sandbox().await;
        let monotonic_before = monotonic(&source).await;
        let taken = rig.take_snapshot(&source).await;
        source.machine.destroy().await.expect("it is destroyed");
        let taken_at = Instant::now();
        let old_enough = async || taken_at.elapsed() > Duration::from_secs(3);
        eventually("the snapshot's time is visibly past", PATIENCE, old_enough).await;

        let clone = rig.wake(&taken).await;
        let before = unix_time();
        let inside: f64 = clone.sh("date +%s.%N").await.trim().parse().expect("a time");
        let after = unix_time();
        assert!((before - CLOCK_TOLERANCE..=after + CLOCK_TOLERANCE).contains(&inside), "{:+.1} s off", inside - after);
        let monotonic_after = monotonic(&clone).await;
        assert!(monotonic_after >= monotonic_before, "{monotonic_before} s, then {monotonic_after} s");
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: for the bench alone"]
fn a_clone_without_walls_runs_and_ends_like_any_other() {
    conform(async |rig| {
        let vm = rig.bare_sandbox().await;
        let pid = vm.pid();
        assert_eq!(vm.sh("echo bare").await, "bare\n");
        vm.machine.destroy().await.expect("it is destroyed");
        assert!(!host::exists(pid), "the process is left");
        rig.assert_nothing_left_of(&vm.confinement).await;
    });
}

#[test]
fn idle_clones_share_the_snapshots_pages() {
    conform(async |rig| {
        let clones = rig.sandboxes(2).await;
        let virtualised = rig.vmm().capabilities().hardware_virtualisation;
        let bound_mib = if virtualised { VIRTUALISED_MIB } else { EMULATED_MIB };
        for vm in &clones {
            vm.sh("true").await;
            let own = vm.machine.private_bytes().expect("its memory");
            note(&format!("  an idle clone has {:.1} MiB of its own", own as f64 / f64::from(1 << 20)));
            assert!(own > 0 && own <= bound_mib << 20, "{own} bytes, and {bound_mib} MiB are promised");
        }
    });
}

/// The guest's monotonic time in seconds: the uptime, too, only counts, and nothing here suspends.
async fn monotonic(vm: &Vm) -> f64 {
    vm.sh("cut -d' ' -f1 /proc/uptime").await.trim().parse().expect("a time")
}

fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}
