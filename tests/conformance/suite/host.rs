//! What the host shows of a machine: processes, namespaces, files.

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Process ids of a user.
pub fn processes_of(uid: u32) -> Vec<i32> {
    let mut found: Vec<i32> =
        pids().filter(|pid| status(&format!("/proc/{pid}")).is_some_and(|s| owned(&s, uid))).collect();
    found.sort_unstable();
    found
}

/// Process ids of everything in a network namespace, named by its inode number.
pub fn processes_in(netns: u64) -> Vec<i32> {
    pids().filter(|pid| namespace(*pid, "net") == Some(netns)).collect()
}

/// The inode number of one of a process's namespaces.
pub fn namespace(pid: i32, kind: &str) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok().map(|meta| meta.ino())
}

/// Whether a process is there, zombies included.
pub fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// `/proc/…/status`, by name.
pub fn status(process: &str) -> Option<HashMap<String, String>> {
    let text = std::fs::read_to_string(format!("{process}/status")).ok()?;
    Some(
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(k, v)| (k.to_owned(), v.trim().to_owned()))
            .collect(),
    )
}

fn owned(status: &HashMap<String, String>, uid: u32) -> bool {
    status.get("Uid").is_some_and(|uids| uids.split_ascii_whitespace().any(|u| u == uid.to_string()))
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether a file holds these bytes anywhere, at a multiple of 512.
pub fn holds(path: &Path, wanted: &[u8]) -> bool {
    let file = File::open(path).expect("it opens");
    extents(&file).into_iter().any(|(start, end)| {
        let mut data = vec![0; usize::try_from(end - start).expect("fits memory")];
        file.read_exact_at(&mut data, start).expect("it can be read");
        data.chunks(512).enumerate().any(|(n, _)| data[n * 512..].starts_with(wanted))
    })
}

fn extents(file: &File) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut position = 0;
    loop {
        let start = match lseek(file.as_fd(), position, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => return found,
            Err(errno) => panic!("looking for data: {errno}"),
        };
        let end = lseek(file.as_fd(), start, Whence::SeekHole).expect("data ends");
        found.push((start as u64, end as u64));
        position = end;
    }
}

/// What changes when a file is written: its length, its blocks and its time.
pub fn fingerprint(path: &Path) -> (u64, u64, i64, i64) {
    let meta = std::fs::metadata(path).expect("it is there");
    (meta.len(), meta.blocks(), meta.mtime(), meta.mtime_nsec())
}

/// Makes a disk as a sandbox has it, but with few inodes.
pub fn make_file_system(disk: &Path, mib: u64, inodes: u32) {
    File::create_new(disk).and_then(|file| file.set_len(mib << 20)).expect("a file");
    let inodes = inodes.to_string();
    let arguments = ["-q", "-F", "-m", "0", "-N", inodes.as_str(), "-L", "leapbox"];
    let output = std::process::Command::new("mkfs.ext4").args(arguments).arg(disk).output().expect("mkfs.ext4 runs");
    assert!(output.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&output.stderr));
}

/// Replays the journal of an ext4 file system in a file, as the next mount would, and checks all of it.
pub fn assert_clean_file_system(disk: &Path) {
    // Having replayed something is status 1.
    for (arguments, worst) in [(["-y", "-E", "journal_only"].as_slice(), 1), (&["-f", "-n"], 0)] {
        let output = std::process::Command::new("e2fsck").args(arguments).arg(disk).output().expect("e2fsck runs");
        let told = [output.stdout, output.stderr].concat();
        let clean = output.status.code().is_some_and(|code| code <= worst);
        assert!(clean, "e2fsck {arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&told));
    }
}
