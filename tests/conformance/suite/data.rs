//! Files whose contents a test knows, in a guest's memory and on its disk.

use crate::vm::Vm;

/// What must be in the files: lines as `sha256sum` prints them.
#[derive(Default)]
pub struct Data {
    sums: String,
}

impl Data {
    /// Writes random MiB to a new file in the guest's memory and, synced, to one on its disk.
    pub async fn write(&mut self, vm: &Vm, name: &str, mib: u64) {
        let (memory, disk) = (format!("/dev/shm/{name}"), format!("/home/user/{name}"));
        let write = |path: &str| format!("head -c {mib}M /dev/urandom > {path}");
        let sums = format!("{}; {}; sync {disk}; sha256sum {memory} {disk}", write(&memory), write(&disk));
        self.sums += &vm.sh(&sums).await;
    }

    /// Checks all of it, the disk's files as they are on the disk.
    pub async fn assert_in(&self, vm: &Vm) {
        let files: Vec<&str> = self.sums.lines().filter_map(|line| line.split_ascii_whitespace().last()).collect();
        let seen = vm.root(&format!("echo 1 > /proc/sys/vm/drop_caches; sha256sum {}", files.join(" "))).await;
        assert_eq!(seen, self.sums, "in {}", vm.hostname());
        assert_eq!(vm.sh("cat /sys/fs/ext4/*/errors_count").await, "0\n");
    }
}
