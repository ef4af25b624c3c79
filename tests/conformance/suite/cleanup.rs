//! Nothing stays of a machine that has ended, and nothing of anybody else's is touched.

use crate::host;
use crate::orphan::Orphan;
use crate::rig::{SMALL, conform, refusal};
use crate::waiting::{SOON, eventually, within};
use leapbox_vmm::Confinement;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

#[test]
fn case_42_after_its_destruction_nothing_of_a_machine_is_left() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        let (pid, netns) = (vm.pid(), host::namespace(vm.pid(), "net").expect("a namespace"));
        vm.machine.destroy().await.expect("it is destroyed");
        rig.assert_nothing_left_of(&vm.confinement).await;
        assert!(!host::exists(pid), "the process is left");
        assert!(vm.disk.exists(), "the disk is not the driver's to remove");
        eventually("its namespace has nobody in it", SOON, async || host::processes_in(netns).is_empty()).await;
        vm.machine.destroy().await.expect("twice is harmless");
    });
}

#[test]
fn case_42_a_machine_that_nobody_owns_is_listed_and_reaped() {
    conform(async |rig| {
        let Orphan { record, place } = rig.orphan().await;
        assert!(host::exists(record.pid), "a machine outlives its server");
        let next = rig.world.restarted().await;
        let listed = next.leftovers().await.expect("a list");
        assert!(listed.contains(&record.name), "{listed:?}");
        next.reap(&record.name, &record.dir).await.expect("it is reaped");
        // In place of the host's init, which a real orphan would be left to.
        let _ = waitpid(Pid::from_raw(record.pid), None);
        rig.assert_nothing_left_of(&place.confinement).await;
        next.reap(&record.name, &record.dir).await.expect("twice is harmless");
    });
}

#[test]
fn case_42_a_paused_machine_is_reaped_too() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        vm.machine.pause().await.expect("it is paused");
        let Confinement { name, dir, .. } = &vm.confinement;
        rig.world.restarted().await.reap(name, dir).await.expect("it is reaped");
        within(SOON, "its owner sees its end", vm.machine.exited()).await;
        rig.assert_nothing_left_of(&vm.confinement).await;
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: it makes no machine"]
fn reaping_a_machine_that_does_not_exist_is_harmless() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        let name = rig.world.new_name();
        rig.vmm().reap(&name, &rig.world.dir.join(&name)).await.expect("nothing to do");
        assert_eq!(vm.sh("echo unharmed").await, "unharmed\n");
    });
}

#[test]
fn case_03_a_folder_or_link_that_is_there_before_the_machine_is_refused_and_left_alone() {
    conform(async |rig| {
        let warm = rig.world.warm(SMALL).await;
        let somebodys = rig.new_dir();
        std::fs::write(somebodys.join("precious"), "data").expect("a file");
        for planted in ["a folder", "a symbolic link"] {
            let place = rig.place(Some(&warm.disk)).await;
            let dir = &place.confinement.dir;
            match planted {
                "a folder" => std::fs::create_dir(dir).expect("planted"),
                _ => std::os::unix::fs::symlink(&somebodys, dir).expect("planted"),
            }
            let file = dir.join("precious");
            std::fs::write(&file, "data").expect("a file");
            refusal(rig.restore_at(&place, &warm).await);
            assert_eq!(std::fs::read(&file).expect("it is left alone"), b"data", "{planted}");
            assert_eq!(std::fs::read(somebodys.join("precious")).expect("it is left alone"), b"data", "{planted}");
            assert!(host::processes_of(place.confinement.uid).is_empty());
        }
    });
}
