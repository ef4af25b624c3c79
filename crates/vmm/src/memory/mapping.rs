//! Finds the guest's RAM in the address space of its VMM.

use crate::error::VmmError;
use crate::process::not_alive;
use leapbox_errors::FileError;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Identifies the file that a VMM has mapped as its guest's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// The memfd that was created with this name.
    Memfd(&'static str),
    /// The file with these numbers of stat(2). A path would not do: the VMM has it below a root of its own.
    File { device: u64, inode: u64 },
}

impl Mapping {
    /// Identifies the file at `path`.
    pub fn of_file(path: &Path) -> Result<Self, VmmError> {
        let meta = std::fs::metadata(path);
        let meta = meta.map_err(FileError::of("finding", path))?;
        Ok(Mapping::File { device: meta.dev(), inode: meta.ino() })
    }
}

/// A contiguous part of the guest's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// The address of its first byte in the VMM.
    pub address: u64,
    /// The position of its first byte in the RAM file, which has the guest's RAM without the hole below 4 GiB.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// A process's directory in /proc, held open. It stays this process's: once that has ended, nothing in it can be
/// opened, also if another process gets the number.
#[derive(Debug)]
pub(crate) struct Proc {
    dir: File,
    pid: i32,
}

/// The longest list of mappings that is read, in bytes. A process has at most 65530 (`vm.max_map_count`), and a VMM can
/// reach no file with a long path.
const MAPS_MAX: u64 = 16 << 20;

impl Proc {
    pub fn open(pid: i32) -> Result<Self, VmmError> {
        let dir = File::open(format!("/proc/{pid}"))
            .map_err(|source| not_alive(pid, "opening its directory in /proc", source))?;
        Ok(Self { dir, pid })
    }

    /// Opens its memory for reading. The file stays bound to this process's address space.
    pub(super) fn memory(&self) -> Result<File, VmmError> {
        self.file("mem", "opening its memory")
    }

    /// Opens its memory for writing.
    pub(super) fn writable_memory(&self) -> Result<File, VmmError> {
        let opened = File::options().write(true).open(self.path("mem"));
        opened.map_err(|source| self.failed("opening its memory for writing", source))
    }

    /// Opens a file of the directory for reading.
    pub(super) fn file(&self, name: &str, step: &'static str) -> Result<File, VmmError> {
        File::open(self.path(name)).map_err(|source| self.failed(step, source))
    }

    /// Maps an error of reading or writing the process: [`VmmError::NotAlive`] if it has ended, otherwise that of
    /// `step`.
    pub(super) fn failed(&self, step: &'static str, source: io::Error) -> VmmError {
        // An open /proc/PID/mem gives the end of the file from the moment the process's address space is gone.
        let ended = matches!(source.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::WriteZero);
        let gone = ended || source.raw_os_error() == Some(libc::ESRCH);
        if gone { VmmError::NotAlive { pid: self.pid } } else { VmmError::Memory { step, pid: self.pid, source } }
    }

    /// Lists the pieces of the guest's RAM in the file's order. An error unless all `bytes` of the file are mapped,
    /// each once, and copy-on-write.
    pub(super) fn ram(&self, mapping: Mapping, bytes: u64) -> Result<Vec<Piece>, VmmError> {
        let step = "reading its mappings";
        let mut maps = Vec::new();
        let read = self.file("maps", step)?.take(MAPS_MAX).read_to_end(&mut maps);
        match read.map_err(|source| self.failed(step, source))? {
            // The list is empty only for a process that has ended.
            0 => return Err(VmmError::NotAlive { pid: self.pid }),
            // The list may have been cut off. A VMM that its guest has taken over decides how many mappings it has.
            length if length as u64 == MAPS_MAX => return Err(self.unfit("it has too many mappings".to_owned())),
            _ => {}
        }
        let maps = String::from_utf8_lossy(&maps);
        let mut pieces = Vec::new();
        for entry in maps.lines().filter_map(Entry::parse).filter(|entry| self.is_of(entry, mapping)) {
            // Written pages of a shared mapping are not anonymous: the difference would be empty.
            if !entry.private {
                return Err(self.unfit("it is mapped shared, so the guest writes to the file".to_owned()));
            }
            pieces.push(Piece { address: entry.start, offset: entry.offset, length: entry.end - entry.start });
        }
        pieces.sort_unstable_by_key(|piece| piece.offset);
        self.check_whole(&pieces, bytes)?;
        Ok(pieces)
    }

    /// An error unless `pieces` cover `bytes` bytes without gaps or overlaps. A VMM that its guest has taken over can
    /// change its mappings, and a difference must not miss a page or have one twice because of that.
    fn check_whole(&self, pieces: &[Piece], bytes: u64) -> Result<(), VmmError> {
        let mut end = 0;
        for piece in pieces {
            if piece.offset != end {
                return Err(self.unfit(format!("the mapping up to {end:#x} is followed by one at {:#x}", piece.offset)));
            }
            end = piece.offset.saturating_add(piece.length);
        }
        if end == bytes { Ok(()) } else { Err(self.unfit(format!("{end} bytes of {bytes} are mapped"))) }
    }

    fn is_of(&self, entry: &Entry<'_>, mapping: Mapping) -> bool {
        match mapping {
            Mapping::Memfd(name) => {
                entry.name.strip_prefix("/memfd:").and_then(|rest| rest.strip_suffix(" (deleted)")) == Some(name)
            }
            Mapping::File { device, inode } => {
                // On Btrfs /proc/PID/maps shows another device than stat(2) gives. The link in map_files leads to the
                // mapped file itself, whose stat(2) then decides.
                let range = format!("map_files/{:x}-{:x}", entry.start, entry.end);
                let asked = || std::fs::metadata(self.path(&range)).is_ok_and(|meta| meta.dev() == device);
                entry.inode == inode && (entry.device == device || asked())
            }
        }
    }

    fn path(&self, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd())
    }

    fn unfit(&self, found: String) -> VmmError {
        VmmError::Mapping { pid: self.pid, found }
    }
}

/// One line of /proc/PID/maps (proc_pid_maps(5)).
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    start: u64,
    end: u64,
    private: bool,
    offset: u64,
    device: u64,
    inode: u64,
    name: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let (start, end) = fields.next()?.split_once('-')?;
        let private = fields.next()?.ends_with('p');
        let offset = hex(fields.next()?)?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let device = libc::makedev(hex(major)? as u32, hex(minor)? as u32);
        let inode = fields.next()?.parse().ok()?;
        let name = fields.next().unwrap_or_default().trim_start();
        let (start, end) = (hex(start)?, hex(end)?);
        (end > start).then_some(Self { start, end, private, offset, device, inode, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::Guest;

    #[test]
    fn a_line_of_maps_is_understood() {
        let line =
            "7f0f00000000-7f0f20000000 rw-p 40000000 00:01 4099                       /memfd:leapbox-ram (deleted)";
        let entry = Entry::parse(line).expect("understood");
        assert_eq!((entry.start, entry.end, entry.offset), (0x7f0f_0000_0000, 0x7f0f_2000_0000, 0x4000_0000));
        assert!(entry.private);
        assert_eq!((entry.device, entry.inode, entry.name), (1, 4099, "/memfd:leapbox-ram (deleted)"));
        assert_eq!(Entry::parse("7f00-7f10 ---p 00000000 00:00 0 ").map(|entry| entry.name), Some(""));
        assert_eq!(Entry::parse("no line of maps"), None);
    }

    #[test]
    fn pieces_in_any_order_are_the_whole_ram() {
        let mut guest = Guest::of_file(4 << 20);
        guest.map(3 << 20, 1 << 20);
        guest.map(0, 1 << 20);
        guest.map(1 << 20, 2 << 20);
        let pieces = Proc::open(guest.pid()).expect("alive").ram(guest.mapping(), 4 << 20).expect("all there");
        assert_eq!(pieces.iter().map(|piece| piece.length).sum::<u64>(), 4 << 20);
        assert!(pieces.is_sorted_by_key(|piece| piece.offset));
    }

    #[test]
    fn a_ram_with_a_gap_is_refused() {
        let mut guest = Guest::of_file(4 << 20);
        guest.map(0, 1 << 20);
        guest.map(2 << 20, 2 << 20);
        refused(&guest, 4 << 20);
    }

    #[test]
    fn a_ram_that_is_mapped_twice_is_refused() {
        let mut guest = Guest::of_memfd(4 << 20);
        guest.map(0, 4 << 20);
        guest.map(1 << 20, 1 << 20);
        refused(&guest, 4 << 20);
    }

    #[test]
    fn a_ram_of_another_size_is_refused() {
        let mut guest = Guest::of_memfd(8 << 20);
        guest.map(0, 8 << 20);
        refused(&guest, 4 << 20);
        refused(&guest, 16 << 20);
    }

    #[test]
    fn a_ram_that_is_shared_with_its_file_is_refused() {
        let mut guest = Guest::of_file(4 << 20);
        guest.map_shared(0, 4 << 20);
        refused(&guest, 4 << 20);
    }

    #[test]
    fn a_process_without_any_is_refused() {
        let guest = Guest::of_memfd(4 << 20);
        refused(&guest, 4 << 20);
        let ended = guest.pid();
        drop(guest);
        assert!(matches!(Proc::open(ended), Err(VmmError::NotAlive { .. })));
    }

    fn refused(guest: &Guest, bytes: u64) {
        let found = Proc::open(guest.pid()).expect("alive").ram(guest.mapping(), bytes);
        assert!(matches!(found, Err(VmmError::Mapping { .. })), "{found:?}");
    }
}
