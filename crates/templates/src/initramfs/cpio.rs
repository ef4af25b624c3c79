//! Writes cpio archives in the `newc` format, which the kernel unpacks
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Equal entries give equal bytes: they are sorted, owned
//! by root and dated 1970.

use std::collections::BTreeMap;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
/// Every header, and the content after every name, begins at a multiple of so many bytes.
const ALIGNMENT: usize = 4;
/// The name of the entry that ends an archive.
const END: &str = "TRAILER!!!";

struct Entry {
    mode: u32,
    device: (u32, u32),
    content: Vec<u8>,
}

/// The entries of an archive by their paths.
#[derive(Default)]
pub(super) struct Archive {
    // Sorted, so that a directory comes before its entries: the kernel does not create missing parents.
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    pub(super) fn dir(&mut self, path: &str, permissions: u32) {
        self.add(path, DIRECTORY | permissions, (0, 0), Vec::new());
    }

    pub(super) fn file(&mut self, path: &str, permissions: u32, content: Vec<u8>) {
        self.add(path, REGULAR | permissions, (0, 0), content);
    }

    pub(super) fn character_device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) {
        self.add(path, CHARACTER_DEVICE | permissions, (major, minor), Vec::new());
    }

    fn add(&mut self, path: &str, mode: u32, device: (u32, u32), content: Vec<u8>) {
        self.entries.insert(path.to_owned(), Entry { mode, device, content });
    }

    /// Returns the bytes of the archive.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = Vec::new();
        // Inode numbers only have to differ; they matter for hard links, of which there are none.
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            write_entry(&mut out, inode, path, entry);
        }
        write_entry(&mut out, 0, END, &Entry { mode: 0, device: (0, 0), content: Vec::new() });
        out
    }
}

fn write_entry(out: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) {
    let links = if entry.mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
    let (name_size, file_size) = (path.len() as u32 + 1, entry.content.len() as u32);
    let (major, minor) = entry.device;
    // ino, mode, uid, gid, nlink, mtime, filesize, device of the file system, device of the node, name size, check
    let fields = [inode, entry.mode, 0, 0, links, 0, file_size, 0, 0, major, minor, name_size, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(&entry.content);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_bytes_are_those_of_the_format() {
        let mut archive = Archive::default();
        archive.character_device("dev/console", 0o600, 5, 1);
        let bytes = archive.finish();
        let expected = "070701\
            00000001\
            00002180\
            0000000000000000\
            00000001\
            00000000\
            00000000\
            0000000000000000\
            0000000500000001\
            0000000c\
            00000000dev/console\0";
        assert_eq!(&bytes[..expected.len()], expected.as_bytes());
    }

    #[test]
    fn every_part_is_aligned_and_the_end_is_marked() {
        let mut archive = Archive::default();
        archive.file("a", 0o644, b"12345".to_vec());
        archive.dir("b", 0o755);
        let bytes = archive.finish();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        assert!(bytes.windows(END.len()).any(|w| w == END.as_bytes()));
    }

    #[test]
    fn the_order_of_adding_does_not_matter() {
        let (mut one, mut two) = (Archive::default(), Archive::default());
        one.dir("dev", 0o755);
        one.file("dev/x", 0o644, b"x".to_vec());
        two.file("dev/x", 0o644, b"x".to_vec());
        two.dir("dev", 0o755);
        assert_eq!(one.finish(), two.finish());
    }
}
