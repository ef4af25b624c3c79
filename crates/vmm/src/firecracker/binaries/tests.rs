//! Binaries that really run, made here: one machine-code program that prints a line.

use super::*;
use std::fs::{self, Permissions};
use std::os::unix::fs::symlink;

/// Code that writes the `length` bytes after it to standard output and exits: write(1, text, length); exit(0).
fn code(length: u8) -> Vec<u8> {
    let mut code = vec![0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0]; // mov eax, 1; mov edi, 1
    code.extend([0x48, 0x8d, 0x35, 16, 0, 0, 0]); // lea rsi, [rip + 16]: the text
    code.extend([0xba, length, 0, 0, 0, 0x0f, 0x05]); // mov edx, length; syscall
    code.extend([0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]); // mov eax, 60; xor edi, edi; syscall
    code
}

/// A static x86-64 executable that prints `text`, whatever it is asked.
fn program(text: &str) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let mut body = code(u8::try_from(text.len()).expect("a short text"));
    body.extend(text.as_bytes());
    let start = (FILE_HEADER + PROGRAM_HEADER) as u64;
    let size = start + body.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    elf.resize(16, 0);
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version 1
    elf.extend([BASE + start, FILE_HEADER as u64, 0].map(u64::to_le_bytes).concat()); // entry, table, no sections
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]); // load; readable and executable
    elf.extend([0, BASE, BASE, size, size, 0x1000].map(u64::to_le_bytes).concat());
    elf.extend(body);
    elf
}

const FILE_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("temp dir") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Installs through another process: the kernel runs no file that this one, or a fork of it, has open to write.
    fn install(&self, name: &str, content: &[u8]) -> PathBuf {
        fs::write(self.path("content"), content).expect("write");
        let copied = Command::new("install").args(["-m", "755", "content", name]).current_dir(&self.dir).status();
        assert!(copied.expect("runs").success());
        self.path(name)
    }

    fn pair(&self, firecracker: &str, jailer: &str) -> (PathBuf, PathBuf) {
        let vmm = self.install("firecracker", &program(&format!("Firecracker v{firecracker}\n\nexiting\n")));
        (vmm, self.install("jailer", &program(&format!("Jailer v{jailer}\n"))))
    }
}

fn inspect(vmm: &Path, jailer: &Path) -> Result<Binaries, BinariesRefused> {
    Binaries::inspect_owned(Some(vmm), Some(jailer), nix::unistd::geteuid().as_raw())
}

fn faults(vmm: &Path, jailer: &Path) -> Vec<BinaryFault> {
    inspect(vmm, jailer).expect_err("refused").faults
}

#[test]
fn a_sound_pair_is_found_with_its_version_digest_and_warnings() {
    let folder = Folder::new();
    let (vmm, jailer) = folder.pair("1.15.0", "1.15.0");
    let binaries = inspect(&vmm, &jailer).expect("used");
    assert_eq!((&binaries.firecracker, &binaries.jailer), (&vmm, &jailer));
    assert_eq!(binaries.version.to_string(), "1.15.0");
    assert_eq!(binaries.digest.len(), 64);
    assert_eq!(binaries.warnings.len(), 2);
    assert_eq!(binaries.provenance, Provenance::Unknown);
}

#[test]
fn another_build_of_the_same_version_has_another_digest_and_is_not_the_release() {
    let folder = Folder::new();
    let (vmm, jailer) = folder.pair("1.16.1", "1.16.1");
    let first = inspect(&vmm, &jailer).expect("used");
    let vmm = folder.install("firecracker", &program("Firecracker v1.16.1\n(rebuilt)\n"));
    let second = inspect(&vmm, &jailer).expect("used");
    assert_ne!(first.digest, second.digest);
    assert_eq!(second.provenance, Provenance::NotTheRelease);
}

#[test]
fn a_link_is_followed_to_the_binary_the_jailer_will_start() {
    let folder = Folder::new();
    let (vmm, jailer) = folder.pair("1.16.1", "1.16.1");
    fs::create_dir(folder.path("bin")).expect("mkdir");
    let link = folder.path("bin/firecracker");
    symlink("../firecracker", &link).expect("symlink");
    assert_eq!(inspect(&link, &jailer).expect("used").firecracker, vmm);
}

#[test]
fn both_missing_binaries_are_told_at_once() {
    let error = Binaries::inspect(None, None).expect_err("refused");
    assert_eq!(error.to_string(), "no firecracker in PATH; no jailer in PATH");
}

#[test]
fn a_binary_others_may_write_to_is_refused_and_not_run() {
    let folder = Folder::new();
    let (vmm, jailer) = folder.pair("1.16.1", "1.16.1");
    fs::set_permissions(&vmm, Permissions::from_mode(0o775)).expect("chmod");
    assert!(matches!(&faults(&vmm, &jailer)[..], [BinaryFault::Untrusted { .. }]));
}

#[test]
fn a_binary_in_a_folder_others_may_write_to_is_refused() {
    let folder = Folder::new();
    let (vmm, jailer) = folder.pair("1.16.1", "1.16.1");
    fs::set_permissions(&folder.dir, Permissions::from_mode(0o777)).expect("chmod");
    let faults = faults(&vmm, &jailer);
    assert!(matches!(&faults[..], [BinaryFault::Untrusted { .. }, BinaryFault::Untrusted { .. }]), "{faults:?}");
}

#[test]
fn a_dynamic_executable_or_a_script_cannot_run_in_a_jail() {
    let folder = Folder::new();
    let (_, jailer) = folder.pair("1.16.1", "1.16.1");
    let script = folder.install("firecracker", b"#!/bin/sh\necho Firecracker v1.16.1\n");
    assert!(matches!(&faults(&script, &jailer)[..], [BinaryFault::NotStatic { .. }]));
    let own = std::env::current_exe().expect("our own path");
    assert!(!elf::is_static(&own).expect("read"), "test programs are dynamic");
}

#[test]
fn a_name_under_which_no_jail_would_be_found_again_is_refused_even_behind_a_link() {
    let folder = Folder::new();
    let (vmm, jailer) = folder.pair("1.16.1", "1.16.1");
    fs::rename(&vmm, folder.path("firecracker-v1.16.1-x86_64")).expect("rename");
    symlink("firecracker-v1.16.1-x86_64", &vmm).expect("symlink");
    assert!(matches!(&faults(&vmm, &jailer)[..], [BinaryFault::Name { .. }]));
}

#[test]
fn what_prints_no_version_is_not_taken_for_a_jailer() {
    let folder = Folder::new();
    let (vmm, _) = folder.pair("1.16.1", "1.16.1");
    let jailer = folder.install("jailer", &program("hello\n"));
    assert!(matches!(&faults(&vmm, &jailer)[..], [BinaryFault::NoVersion { said, .. }] if said == "hello"));
}

#[test]
fn folders_and_files_that_do_not_run_are_told() {
    let folder = Folder::new();
    let (vmm, jailer) = folder.pair("1.16.1", "1.16.1");
    assert!(matches!(&faults(folder.dir.path(), &jailer)[..], [BinaryFault::NotAFile { .. }]));
    fs::set_permissions(&vmm, Permissions::from_mode(0o644)).expect("chmod");
    assert!(matches!(&faults(&vmm, &jailer)[..], [BinaryFault::DoesNotRun { .. }]));
    assert!(matches!(&faults(&folder.path("gone"), &jailer)[..], [BinaryFault::Unreadable { .. }]));
}

#[test]
fn a_pair_of_different_releases_is_refused() {
    let folder = Folder::new();
    let (vmm, jailer) = folder.pair("1.16.1", "1.16.0");
    assert!(matches!(&faults(&vmm, &jailer)[..], [BinaryFault::Version(Refusal::Mismatch { .. })]));
}
