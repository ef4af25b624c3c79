//! A machine comes up, shows what it is, and is found again.

use crate::host;
use crate::rig::{Rig, SMALL, conform};
use crate::vm::Vm;
use crate::waiting::{PATIENCE, SOON, eventually, within};
use leapbox_guest_protocol::Phase;
use leapbox_vmm::{MachineRecord, VmmError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// A boot takes seconds under emulation.
const BOOT: Duration = Duration::from_secs(120);
/// What a console may keep (the trait's promise).
const CONSOLE_MAX: usize = 64 * 1024;

async fn boot(rig: &Rig) -> Vm {
    let place = rig.place(None).await;
    rig.boot_at(&place, SMALL, rig.new_dir()).await.expect("it boots")
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: every base that other tests restore has booted"]
fn a_machine_boots_and_its_agent_answers_and_runs_commands() {
    conform(async |rig| {
        let vm = boot(rig).await;
        let pong = vm.guest.wait_ready(BOOT).await.expect("the agent answers");
        assert_eq!(pong.phase, Phase::Diskless);
        vm.guest.mount().await.expect("it finds its disks");
        vm.configure().await;
        assert_eq!(vm.sh("echo hello from $(hostname)").await, format!("hello from {}\n", vm.hostname()));
        assert_eq!(vm.root("id -u").await, "0\n");
    });
}

#[test]
fn a_machine_that_is_destroyed_while_it_boots_leaves_nothing() {
    conform(async |rig| {
        let vm = boot(rig).await;
        vm.machine.destroy().await.expect("it is destroyed");
        rig.assert_nothing_left_of(&vm.confinement).await;
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: the tests of adoption read the record, too"]
fn a_record_says_who_the_machine_is() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        let record = vm.machine.record();
        assert_eq!(record.driver, rig.vmm().name());
        assert_eq!((record.shape, &record.name), (SMALL, &vm.confinement.name));
        assert_eq!((record.uid, &record.dir), (vm.confinement.uid, &vm.confinement.dir));
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the host's boot id");
        assert_eq!(record.host_boot_id, boot_id.trim());
        assert!(host::processes_of(record.uid).contains(&record.pid), "the process is the machine's user's");
        let named = rig.vmm().leftovers().await.expect("a list");
        assert!(named.contains(&record.name), "a living machine is listed: {named:?}");
    });
}

#[test]
fn a_restarted_server_adopts_a_machine_by_its_record_and_can_use_and_destroy_it() {
    conform(async |rig| {
        let orphan = rig.orphan().await;
        let vm = rig.adopt(&orphan).await;
        assert_eq!(vm.machine.record(), orphan.record);
        let netns = File::from(vm.machine.netns().expect("its namespace")).metadata().expect("metadata");
        assert_eq!(Some(netns.ino()), host::namespace(vm.pid(), "net"));
        assert!(vm.machine.private_bytes().expect("its memory") > 0);
        vm.start_heart().await;
        let beat = vm.beat().await;
        vm.machine.pause().await.expect("it can be paused");
        vm.machine.resume().await.expect("it can be resumed");
        vm.lives_on(beat).await;
        vm.machine.destroy().await.expect("it can be destroyed");
        rig.assert_nothing_left_of(&vm.confinement).await;
    });
}

#[test]
fn a_snapshot_of_an_adopted_machine_is_as_good_as_any() {
    conform(async |rig| {
        let vm = rig.adopt(&rig.orphan().await).await;
        vm.sh("head -c 1M /dev/urandom > /dev/shm/kept").await;
        let hash = vm.hash("/dev/shm/kept").await;
        let taken = rig.take_snapshot(&vm).await;
        let clone = rig.wake(&taken).await;
        assert_eq!(clone.hash("/dev/shm/kept").await, hash);
        vm.machine.resume().await.expect("it goes on");
        assert_eq!(vm.hash("/dev/shm/kept").await, hash);
    });
}

#[test]
fn case_43_the_end_of_an_adopted_machine_is_told() {
    conform(async |rig| {
        let vm = rig.adopt(&rig.orphan().await).await;
        kill(Pid::from_raw(vm.pid()), Signal::SIGKILL).expect("it is killed");
        within(SOON, "the end is told", vm.machine.exited()).await;
        vm.machine.destroy().await.expect("what is left is removed");
        rig.assert_nothing_left_of(&vm.confinement).await;
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: unit tests of the crate vmm"]
fn a_record_of_a_process_that_is_gone_or_of_another_is_not_adopted() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        let right = vm.machine.record();
        let another_boot =
            MachineRecord { host_boot_id: "00000000-0000-4000-8000-000000000000".to_owned(), ..right.clone() };
        let reused_pid = MachineRecord { start_ticks: right.start_ticks + 1, ..right.clone() };
        let own = i32::try_from(std::process::id()).expect("a pid");
        let our_own = MachineRecord { pid: own, ..right.clone() };
        for record in [another_boot, reused_pid, our_own] {
            let refused = rig.vmm().adopt(record).await.err().expect("refused");
            assert!(matches!(refused, VmmError::NotAlive { .. }), "{refused}");
        }
        assert_eq!(vm.sh("echo unharmed").await, "unharmed\n");
        vm.machine.destroy().await.expect("it is destroyed");
        let refused = rig.vmm().adopt(right).await.err().expect("refused");
        assert!(matches!(refused, VmmError::NotAlive { .. }), "{refused}");
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: unit tests of its console in the crate vmm"]
fn case_05_a_flood_on_the_console_is_bounded_and_its_end_is_kept() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        vm.root("head -c 80000 /dev/zero | tr '\\0' x > /dev/console; echo last words > /dev/console").await;
        let shows_the_end = async || vm.machine.console_tail().await.contains("last words");
        eventually("the console's end is there", PATIENCE, shows_the_end).await;
        let kept = vm.machine.console_tail().await.len();
        assert!((1..=CONSOLE_MAX).contains(&kept), "{kept} bytes");
        assert_eq!(vm.sh("echo alive").await, "alive\n");
    });
}
