//! A disk is its machine's alone, and what a guest has synced is on the host.

use crate::host;
use crate::phases::sandbox_over;
use crate::rig::{SMALL, conform};
use leapbox_guest_client::GuestError;
use leapbox_guest_protocol::FaultKind;

/// Makes empty files in a new folder, more than a disk of so few inodes has; prints the error's name if it cannot.
const MAKE_FILES: &str = "
import errno, os
try:
    os.makedirs('/home/user/many')
    for number in range(8000):
        os.mknod(f'/home/user/many/{number}')
except OSError as error:
    print(errno.errorcode[error.errno])
";
const INODES: u32 = 4096;

/// Writes 16 MiB to a file; prints the error's name if it cannot.
const WRITE_MUCH: &str = "
import errno, os
try:
    with open('/home/user/more', 'wb') as file:
        file.write(bytes(16 << 20))
        file.flush()
        os.fsync(file.fileno())
except OSError as error:
    print(errno.errorcode[error.errno])
";

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
#[ignore = "with Firecracker in make test-firecracker only: the guest's kernel"]
fn case_06_a_full_disk_is_that_guests_trouble_alone() {
    conform(async |rig| {
        let (full, other) = rig.neighbours().await;
        full.guest.write_file("/tmp/write_much.py", None, WRITE_MUCH.as_bytes()).await.expect("written");
        full.sh("fallocate -l $(( $(df --output=avail -B1 ~ | tail -1) - 4000000 )) ~/fill").await;
        assert_eq!(full.sh("python3 /tmp/write_much.py").await, "ENOSPC\n");
        other.sh("head -c 16M /dev/zero > ~/fine && sync ~/fine").await;
        full.sh("rm ~/fill ~/more && echo room again > ~/fine && sync ~/fine").await;
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: the guest's kernel"]
fn case_06_running_out_of_inodes_is_that_guests_trouble_alone() {
    conform(async |rig| {
        let disk = rig.new_dir().join("disk");
        host::make_file_system(&disk, rig.world.disk_mib(), INODES);
        let (full, other) = tokio::join!(sandbox_over(rig, &disk), rig.sandbox());
        full.guest.write_file("/tmp/make_files.py", None, MAKE_FILES.as_bytes()).await.expect("written");
        assert_eq!(full.sh("python3 /tmp/make_files.py").await, "ENOSPC\n");
        let refused = full.guest.write_file("/home/user/one_more", None, b"x").await.expect_err("no inode is left");
        assert!(matches!(&refused, GuestError::Fault(fault) if fault.kind == FaultKind::NoSpace), "{refused:?}");
        other.sh("touch ~/fine && sync ~/fine").await;
        full.sh("rm -r ~/many && echo room again > ~/fine && sync ~/fine").await;
    });
}

fn random(bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    getrandom::fill(&mut content).expect("randomness");
    content
}
