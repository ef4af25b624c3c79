//! The guest's phases on a real machine: without a disk, suspended, shut down; and the bases that come of them.

use crate::data::Data;
use crate::host;
use crate::pause::{assert_echoes, connect, echo_server};
use crate::rig::{Rig, SMALL, conform, note};
use crate::taken::Taken;
use crate::vm::Vm;
use crate::waiting::{PATIENCE, eventually};
use leapbox_bases::{Base, BaseKind, Bases};
use leapbox_guest_client::GuestError;
use leapbox_guest_protocol::{Configure, Entropy, FaultKind, Phase, Suspended};
use leapbox_ids::ArchiveId;
use leapbox_storage::{ArchiveStore, ServerKey, StoreConfig};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Pauses of one machine, with connections that nobody ends before each: together more than its agent has places for.
/// `LEAPBOX_TEST_ROUNDS` asks for more.
const ROUNDS: u32 = 4;
const CONNECTIONS: u32 = 60;

fn rounds() -> u32 {
    let wanted = std::env::var("LEAPBOX_TEST_ROUNDS");
    wanted.map_or(ROUNDS, |rounds| rounds.parse().expect("LEAPBOX_TEST_ROUNDS is a number"))
}

/// A machine whose agent waits for disks, with a copy of `disk` as its writable one.
async fn bare_with(rig: &Rig, disk: &Path) -> Vm {
    let base = rig.world.base(SMALL, BaseKind::Diskless).await;
    let place = rig.place(Some(disk)).await;
    rig.restore_at(&place, &base).await.expect("a clone starts")
}

/// A sandbox that was started over a copy of `disk`.
pub async fn sandbox_over(rig: &Rig, disk: &Path) -> Vm {
    let vm = bare_with(rig, disk).await;
    vm.guest.mount().await.expect("it mounts the disk it was given");
    vm.configure().await;
    vm
}

/// The disk that a stopped or killed machine leaves, under a new machine.
async fn start_again(rig: &Rig, old: &Vm) -> Vm {
    let started = Instant::now();
    let vm = sandbox_over(rig, &old.disk).await;
    note(&format!("  started over its own disk in {} ms", started.elapsed().as_millis()));
    vm
}

/// Has a suspended sandbox go on that was never away.
async fn go_on_as_it_is(vm: &Vm) {
    let mut entropy = [0; 64];
    getrandom::fill(&mut entropy).expect("randomness");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let wall_clock_unix_ns = u64::try_from(now.as_nanos()).expect("before 2554");
    let (hostname, entropy) = (vm.hostname(), Entropy(entropy));
    let same =
        Configure { hostname, entropy, wall_clock_unix_ns, identity: None, env: None, restored: false, trust: None };
    vm.guest.configure(same).await.expect("it goes on");
}

async fn suspended(rig: &Rig, vm: &Vm) -> Taken {
    assert_eq!(vm.guest.suspend().await.expect("it is suspended"), Suspended { frozen: true });
    rig.take_snapshot(vm).await
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: the agent does this, whatever the driver"]
fn a_bare_guest_answers_and_refuses_everything_until_it_has_its_disk() {
    conform(async |rig| {
        let base = rig.world.base(SMALL, BaseKind::Diskless).await;
        let vm = bare_with(rig, &base.disk).await;
        assert_eq!(vm.guest.ping().await.expect("it answers").phase, Phase::Diskless);
        match vm.exec("true").await {
            Err(GuestError::Fault(fault)) => assert_eq!(fault.kind, FaultKind::Busy),
            other => panic!("{other:?}"),
        }
        vm.guest.mount().await.expect("it mounts");
        vm.configure().await;
        assert_eq!(vm.sh("findmnt -no FSTYPE /; ls /home").await, "overlay\nuser\n");
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: the agent, and e2e test_stop"]
fn a_stopped_sandbox_starts_over_its_own_disk_with_its_files_and_without_its_processes() {
    conform(async |rig| {
        let old = rig.sandbox().await;
        old.start_heart().await;
        // Not synced: that is what shutting down is for.
        let sum = old.sh("mkdir -p ~/work && head -c 8M /dev/urandom > ~/work/data && sha256sum < ~/work/data").await;
        let started = Instant::now();
        old.guest.shutdown(Duration::from_secs(5)).await.expect("it shuts down");
        note(&format!("  shut down in {} ms", started.elapsed().as_millis()));
        assert_eq!(old.guest.ping().await.expect("it answers").phase, Phase::Ended);
        old.machine.destroy().await.expect("it is destroyed");
        let new = start_again(rig, &old).await;
        assert_eq!(new.hash("~/work/data").await, sum);
        assert_eq!(new.sh("ls /dev/shm; pgrep -c beat || true").await, "0\n");
        new.guest.shutdown(Duration::from_secs(5)).await.expect("it shuts down");
        new.machine.destroy().await.expect("it is destroyed");
        host::assert_clean_file_system(&new.disk);
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: the guest's kernel"]
fn a_killed_sandboxs_disk_replays_its_journal_under_a_bare_guest() {
    conform(async |rig| {
        let old = rig.sandbox().await;
        let sum = old.sh("head -c 4M /dev/urandom > ~/data && sync ~/data && sha256sum < ~/data").await;
        old.sh("for n in $(seq 300); do echo $n > ~/file-$n; done; sync; rm ~/file-1??").await;
        old.machine.destroy().await.expect("it is destroyed");
        let new = start_again(rig, &old).await;
        assert_eq!(new.hash("~/data").await, sum);
        assert_eq!(new.sh("cat /sys/fs/ext4/*/errors_count; echo more > ~/more").await, "0\n");
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: long; one pause is in e2e test_pause"]
fn case_37_many_pauses_with_everything_busy_lose_no_beat_and_no_place() {
    conform(async |rig| {
        let mut vm = rig.sandbox().await;
        let mut data = Data::default();
        data.write(&vm, "kept", 4).await;
        vm.start_heart().await;
        let _first = echo_server(&vm).await;
        let identity = vm.sh("cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname").await;
        let (started, rounds) = (Instant::now(), rounds());
        for round in 1..=rounds {
            let beat = vm.beat().await;
            // Connections that nobody ends: their host side is gone when the guest wakes.
            let mut held = Vec::new();
            for _ in 0..CONNECTIONS {
                held.push(connect(&vm).await);
            }
            let taken = suspended(rig, &vm).await;
            vm.machine.destroy().await.expect("it is destroyed");
            vm = rig.restore(&taken).await;
            vm.go_on().await;
            assert_echoes(&mut connect(&vm).await, &format!("round {round}")).await;
            vm.lives_on(beat).await;
        }
        note(&format!("  {rounds} rounds in {:.1} s", started.elapsed().as_secs_f64()));
        data.assert_in(&vm).await;
        // The host name is the test machine's, which is another one after each restore.
        let (before, after) = (identity.lines(), vm.sh("cat /etc/machine-id /proc/sys/kernel/random/boot_id").await);
        assert_eq!(before.take(2).collect::<Vec<_>>(), after.lines().collect::<Vec<_>>());
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: the agent does this, whatever the driver"]
fn a_suspended_workload_runs_nothing_before_it_is_told_the_time_and_goes_on_in_the_source_too() {
    conform(async |rig| {
        let source = rig.sandbox().await;
        // Notes the wall clock whenever it runs.
        source.start("while :; do date +%s >> /dev/shm/times; sleep 0.05; done").await;
        source.start_heart().await;
        let mut open = echo_server(&source).await;
        let beat = source.beat().await;
        let noted = async || source.sh("cat /dev/shm/times || true").await.len() > 1;
        eventually("it has noted a time", PATIENCE, noted).await;
        let taken = suspended(rig, &source).await;
        let last = unix_time();
        source.machine.resume().await.expect("its CPUs go on");
        tokio::time::sleep(Duration::from_secs(3)).await;
        go_on_as_it_is(&source).await;
        assert_echoes(&mut open, "the same connection").await;
        source.lives_on(beat).await;
        let clone = rig.restore(&taken).await;
        let told = unix_time();
        clone.configure().await;
        clone.lives_on(beat).await;
        let times = async || {
            let times = clone.sh("cat /dev/shm/times").await;
            times.lines().filter_map(|line| line.parse::<u64>().ok()).collect::<Vec<_>>()
        };
        let after = |time: &u64| time + 1 >= told;
        eventually("it notes times again", PATIENCE, async || times().await.last().is_some_and(after)).await;
        let times = times().await;
        assert!(times.first().is_some_and(|time| *time <= last), "what it noted before is there");
        for time in &times {
            assert!(*time <= last || after(time), "{time} is between {last} and {told}");
        }
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: the agent does this, whatever the driver"]
fn commands_that_a_pause_found_running_go_on_without_their_callers() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        let guest = vm.clone();
        let command = "n=0; while :; do n=$((n+1)); echo $n > /dev/shm/beat; sleep 0.1; done";
        let caller = tokio::spawn(async move { guest.exec(command).await });
        eventually("it runs", PATIENCE, async || vm.sh("cat /dev/shm/beat || true").await.len() > 1).await;
        let beat = vm.beat().await;
        let taken = suspended(rig, &vm).await;
        vm.machine.destroy().await.expect("it is destroyed");
        caller.abort();
        let vm = rig.restore(&taken).await;
        vm.go_on().await;
        vm.lives_on(beat).await;
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: the crate bases"]
fn bases_are_found_again_come_back_from_an_archive_and_go_when_nothing_needs_them() {
    conform(async |rig| {
        let world = &rig.world;
        let dir = rig.new_dir();
        let open = || {
            let (vmm, network) = (Arc::clone(&world.vmm), Arc::clone(&world.network));
            Bases::open(&dir.join("warm"), world.disk_mib(), vmm, network).expect("opened")
        };
        let warm = open();
        let get = async |warm: &Bases| warm.get(&world.image, SMALL, BaseKind::Diskless).await.expect("a base");
        let (one, other) = tokio::join!(get(&warm), get(&warm));
        assert_eq!(one, other, "one machine boots for both");
        let again = open();
        assert_eq!(get(&again).await, one, "the next server finds it");
        assert_eq!(again.by_id(&one.id).await.expect("looked at").as_deref(), Some(&*one));

        let key = ServerKey::load_or_create(&dir.join("key")).expect("a key");
        let (archives, installation) = (dir.join("archives"), "test".to_owned());
        let config =
            StoreConfig { dir: archives, key, remote: None, cache_bytes: None, installation, known_sequence: 0 };
        let store = ArchiveStore::open(config).expect("a store");
        let sealed = again
            .export_base(&one, store.begin(&ArchiveId::from(&one.id), None).expect("begun"))
            .await
            .expect("stored");
        note(&format!("  a bare base: {} KiB, stored in {}", sealed.plain_bytes >> 10, sealed.stored_bytes >> 10));

        let (image, nothing) = (std::slice::from_ref(&world.image), Default::default());
        again.evict(image, &nothing).await;
        assert!(again.by_id(&one.id).await.expect("looked at").is_some(), "it is current");
        again.evict(&[], &[ArchiveId::from(&one.id)].into()).await;
        assert!(again.by_id(&one.id).await.expect("looked at").is_some(), "it is referenced");
        again.evict(&[], &nothing).await;
        assert!(again.by_id(&one.id).await.expect("looked at").is_none(), "it fits nothing in use");
        assert!(!dir.join("warm").join(one.id.as_str()).exists());

        let started = Instant::now();
        let back = again.import_base(store.get(&ArchiveId::from(&one.id)).await.expect("there")).await.expect("back");
        note(&format!("  back from its archive in {} ms", started.elapsed().as_millis()));
        assert_eq!(back, one);
        boots_from(rig, &back).await;

        let state = std::fs::read(&back.snapshot.state).expect("read");
        std::fs::remove_file(&back.snapshot.state).expect("removed");
        std::fs::write(&back.snapshot.state, vec![0; state.len()]).expect("written");
        let third = open();
        assert!(third.by_id(&one.id).await.expect("looked at").is_none(), "it is damaged");
        assert!(!dir.join("warm").join(one.id.as_str()).exists());
        let retaken = get(&third).await;
        assert_ne!(retaken.id, one.id, "a base that is taken again is another one");
    });
}

async fn boots_from(rig: &Rig, base: &Arc<Base>) {
    let place = rig.place(Some(&base.snapshot.disk)).await;
    let vm = rig.restore_at(&place, &base.snapshot).await.expect("a clone starts");
    vm.guest.mount().await.expect("it mounts");
    vm.configure().await;
    assert_eq!(vm.sh("echo hello").await, "hello\n");
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}
