//! A process that maps a file as a VMM maps its guest's RAM: this test program, started again.

#![allow(unsafe_code)]

use super::{Mapping, PAGE, Proc};
use crate::shape::Shape;
use leapbox_storage::Runs;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The shape of a guest with 16 MiB.
pub const SHAPE: Shape = Shape { vcpus: 1, memory_mib: 16 };

const NAME: &str = "leapbox-test-ram";
/// Tells the child which file to map.
const VARIABLE: &str = "LEAPBOX_TEST_RAM";
const CHILD: &str = "memory::testing::started_again_this_is_the_guest";
/// What sets the child's answers apart from what the test harness prints.
const ANSWER: &str = "guest: done";

/// A child, its pipes, and the file that it maps.
pub struct Guest {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    mapping: Mapping,
    base: PathBuf,
    /// What is removed with the guest.
    _file: Option<tempfile::NamedTempFile>,
    _memfd: Option<OwnedFd>,
}

impl Guest {
    /// Maps a file on disk, every page of it other than zero.
    pub fn of_file(bytes: u64) -> Self {
        let base = base(bytes);
        let mut guest = Self::of(base.path());
        guest._file = Some(base);
        guest
    }

    /// Maps the file at `path`.
    pub fn of(path: &Path) -> Self {
        Self::start(path, Mapping::of_file(path).expect("a file"), path)
    }

    /// Maps a memfd of the same bytes.
    pub fn of_memfd(bytes: u64) -> Self {
        let base = base(bytes);
        let memfd = memfd_create(NAME, MFdFlags::empty()).expect("a memfd");
        let to = File::from(memfd.try_clone().expect("another"));
        to.set_len(bytes).expect("sized");
        leapbox_storage::copy_data(base.as_file(), &to).expect("copied");
        let path = format!("/proc/{}/fd/{}", std::process::id(), memfd.as_raw_fd());
        let mut guest = Self::start(Path::new(&path), Mapping::Memfd(NAME), base.path());
        (guest._file, guest._memfd) = (Some(base), Some(memfd));
        guest
    }

    fn start(path: &Path, mapping: Mapping, base: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("our own program"))
            .args(["--exact", CHILD, "--nocapture"])
            .env(VARIABLE, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let orders = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let base = base.to_path_buf();
        let mut guest = Self { child, orders, answers, mapping, base, _file: None, _memfd: None };
        guest.order("start", 0, 0);
        guest
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn mapping(&self) -> Mapping {
        self.mapping
    }

    /// The file with the RAM's first bytes.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Its folder in /proc.
    pub fn process(&self) -> Proc {
        Proc::open(self.pid()).expect("alive")
    }

    /// Maps a part of the RAM copy-on-write.
    pub fn map(&mut self, offset: u64, length: u64) {
        self.order("map", offset, length);
    }

    /// Maps a part of the RAM so that writes go to the file.
    pub fn map_shared(&mut self, offset: u64, length: u64) {
        self.order("share", offset, length);
    }

    /// Reads a page.
    pub fn read(&mut self, page: u64) {
        self.order("read", page, 0);
    }

    /// Fills a page.
    pub fn write(&mut self, page: u64, byte: u8) {
        self.order("write", page, byte.into());
    }

    /// Fills the whole RAM.
    pub fn write_all(&mut self, byte: u8) {
        self.order("fill", u64::MAX, byte.into());
    }

    /// Takes away what was mapped at `offset`.
    pub fn unmap(&mut self, offset: u64) {
        self.order("unmap", offset, 0);
    }

    fn order(&mut self, what: &str, first: u64, second: u64) {
        writeln!(self.orders, "{what} {first} {second}").expect("the guest lives");
        let mut line = String::new();
        while !line.trim_end().ends_with(ANSWER) {
            line.clear();
            assert_ne!(self.answers.read_line(&mut line).expect("the guest lives"), 0, "the guest ended");
        }
    }

    /// Whether the byte at `offset` of the file on disk is in the page cache.
    pub fn cached(&self, offset: u64) -> bool {
        let file = File::open(self.base()).expect("opened");
        let length = NonZeroUsize::new(PAGE as usize).expect("not zero");
        let (protection, flags) = (nix::sys::mman::ProtFlags::PROT_READ, nix::sys::mman::MapFlags::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice, never read.
        let at = unsafe { nix::sys::mman::mmap(None, length, protection, flags, &file, offset as i64) };
        let at = at.expect("mapped");
        let mut resident = 0;
        // SAFETY: one page is mapped at `at`, and the kernel writes one byte about it.
        let told = unsafe { libc::mincore(at.as_ptr(), PAGE as usize, &raw mut resident) };
        // SAFETY: the mapping was made above and nothing points into it.
        unsafe { nix::sys::mman::munmap(at, PAGE as usize) }.expect("unmapped");
        assert_eq!(told, 0, "mincore");
        resident & 1 == 1
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is in each page of `runs`, which must be of one value throughout.
pub fn contents(runs: Runs) -> io::Result<BTreeMap<u64, u8>> {
    let mut pages = BTreeMap::new();
    for run in runs {
        let run = run?;
        for (page, bytes) in (run.offset / PAGE..).zip(run.bytes.chunks(PAGE as usize)) {
            assert!(bytes.len() as u64 == PAGE && bytes.iter().all(|byte| *byte == bytes[0]), "page {page}");
            assert_eq!(pages.insert(page, bytes[0]), None, "page {page} comes twice");
        }
    }
    Ok(pages)
}

/// A file whose pages say which they are and are never zero.
fn base(bytes: u64) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    for page in 0..bytes / PAGE {
        file.write_all(&[(page % 255) as u8 + 1; PAGE as usize]).expect("written");
    }
    file
}

/// The child. In an ordinary run of the tests there is nothing for it to do.
#[test]
fn started_again_this_is_the_guest() {
    let Some(path) = std::env::var_os(VARIABLE) else { return };
    let file = File::options().read(true).write(true).open(path).expect("opened");
    // Where each page of the RAM is.
    let mut pieces: Vec<(u64, u64, usize)> = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line.expect("an order");
        let mut words = line.split(' ');
        let what = words.next().expect("a word");
        let numbers: Vec<u64> = words.map(|word| word.parse().expect("a number")).collect();
        let (first, second) = (numbers[0], numbers[1]);
        let place = |page: u64| {
            let of = |(start, length, _): &&(u64, u64, usize)| (*start..start + length).contains(&(page * PAGE));
            pieces.iter().find(of).map(|(start, _, at)| (at + (page * PAGE - start) as usize) as *mut u8)
        };
        // SAFETY: `place` is in a mapping made below, which stays until this process ends.
        let write = |at: *mut u8| unsafe { std::ptr::write_bytes(at, second as u8, PAGE as usize) };
        match what {
            "start" => {}
            "map" => pieces.push((first, second, map(&file, first, second, libc::MAP_PRIVATE))),
            "share" => pieces.push((first, second, map(&file, first, second, libc::MAP_SHARED))),
            // SAFETY: as above.
            "read" => assert_ne!(unsafe { place(first).expect("mapped").read_volatile() }, 0),
            "write" => write(place(first).expect("mapped")),
            "unmap" => {
                let of = pieces.iter().position(|(start, _, _)| *start == first);
                let (_, length, at) = pieces.remove(of.expect("mapped"));
                // SAFETY: this piece was mapped below, and nothing knows of it any more.
                assert_eq!(unsafe { libc::munmap(at as *mut libc::c_void, length as usize) }, 0, "munmap");
            }
            "fill" => (0..first).map_while(place).for_each(write),
            other => panic!("{other} is no order"),
        }
        println!("{ANSWER}");
    }
}

fn map(file: &File, offset: u64, length: u64, sharing: i32) -> usize {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), length as usize, access, sharing, file.as_raw_fd(), offset as i64) };
    assert_ne!(at, libc::MAP_FAILED, "mmap");
    at as usize
}
