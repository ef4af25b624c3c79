//! A disk is its machine's alone, and what a guest has synced is on the host.

use crate::host;
use crate::rig::{SMALL, conform};

#[test]
fn what_a_clone_writes_is_in_no_other_and_not_in_the_snapshot() {
    conform(async |rig| {
        let snapshot = rig.world.warm(SMALL).await;
        let files = [&snapshot.memory, &snapshot.state, &snapshot.disk];
        let before = files.map(|file| host::fingerprint(file));
        let (writer, other) = rig.neighbours().await;
        let secret = random(4096);
        writer.guest.write_file("/home/user/secret", None, &secret).await.expect("written");
        writer.sh("sync ~/secret").await;
        let later = rig.sandbox().await;
        for vm in [&other, &later] {
            assert!(!vm.guest.exists("/home/user/secret").await.expect("an answer"), "it shows in another clone");
        }
        let disks = [&writer, &other, &later].map(|vm| host::holds(&vm.disk, &secret));
        assert_eq!(disks, [true, false, false]);
        assert!(!host::holds(&snapshot.disk, &secret));
        assert_eq!(files.map(|file| host::fingerprint(file)), before, "the snapshot's files have changed");
    });
}

#[test]
fn what_a_guest_has_synced_is_in_the_hosts_file_once_it_is_paused() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        let content = random(1 << 20);
        vm.guest.write_file("/home/user/synced", None, &content).await.expect("written");
        vm.sh("sync ~/synced").await;
        vm.machine.pause().await.expect("paused");
        for (number, block) in content.chunks(4096).enumerate().step_by(16) {
            assert!(host::holds(&vm.disk, block), "block {number} is missing");
        }
    });
}

#[test]
fn case_06_a_full_disk_is_that_guests_trouble_alone() {
    conform(async |rig| {
        let (full, other) = rig.neighbours().await;
        full.sh("fallocate -l $(( $(df --output=avail -B1 ~ | tail -1) - 4000000 )) ~/fill").await;
        let output = full.exec("head -c 16M /dev/zero > ~/more").await.expect("an answer");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.exit_code != 0 && told.contains("No space left on device"), "{told}");
        other.sh("head -c 16M /dev/zero > ~/fine && sync ~/fine").await;
        full.sh("rm ~/fill ~/more && echo room again > ~/fine && sync ~/fine").await;
    });
}

fn random(bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    getrandom::fill(&mut content).expect("randomness");
    content
}
