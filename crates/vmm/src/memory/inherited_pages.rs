//! The inherited pages of an overlaid memory: those that came from changes. They are stored in a file in the machine's
//! directory, because the machine's next difference must have them, whether the guest has touched them since or not,
//! and also if another server process takes it.

use super::{PAGE, ranges};
use crate::error::VmmError;
use leapbox_errors::FileError;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The first line of the file, with the version of its format.
const HEADER: &str = "leapbox inherited memory 1\n";
/// The beginning of the last line, which has the checksum of everything before it.
const CHECKSUM: &str = "sha256 ";
/// The longest file that is read, in bytes: of 8 GiB every second page is a line of at most 22 characters.
const STORED_MAX: u64 = 32 << 20;

/// Ranges of bytes in a memory, in ascending order and apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct InheritedPages {
    ranges: Vec<Range<u64>>,
}

impl InheritedPages {
    /// Adds a range, which must come after all that have been added.
    pub(super) fn push(&mut self, range: Range<u64>) {
        ranges::push(&mut self.ranges, range, 0);
    }

    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Writes them to the new file `path` (mode 0600). Blocking.
    pub fn save(&self, path: &Path) -> Result<(), VmmError> {
        // Not synced: a host that loses power loses the machine as well.
        let mut text = HEADER.to_owned();
        ranges::print(&mut text, &self.ranges);
        let checksum = checksum(&text);
        text += &format!("{CHECKSUM}{checksum}\n");
        let made = File::options().write(true).create_new(true).mode(0o600).open(path);
        let mut made = made.map_err(FileError::of("creating", path))?;
        Ok(made.write_all(text.as_bytes()).map_err(FileError::of("writing", path))?)
    }

    /// Reads the file that [`InheritedPages::save`] has written for a memory of `bytes` bytes. Blocking.
    pub(super) fn load(path: &Path, bytes: u64) -> Result<Self, VmmError> {
        // A missing or damaged file is an error and does not count as empty: the difference would lack pages, and
        // nobody would notice until a machine was restored with it.
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(STORED_MAX + 1).read_to_string(&mut text));
        read.map_err(FileError::of("reading", path))?;
        parse(&text, bytes).ok_or_else(|| VmmError::InheritedPages { path: path.to_path_buf() })
    }
}

fn parse(text: &str, bytes: u64) -> Option<InheritedPages> {
    let (content, found) = text.strip_suffix('\n')?.rsplit_once(CHECKSUM)?;
    if found != checksum(content) {
        return None;
    }
    let ranges = ranges::parse(content.strip_prefix(HEADER)?.lines(), bytes)?;
    let whole = |range: &Range<u64>| range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE);
    ranges.iter().all(whole).then_some(InheritedPages { ranges })
}

fn checksum(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: u64 = 16 << 20;

    #[test]
    fn inherited_pages_are_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut inherited = InheritedPages::default();
        for (name, range) in [("none", 0..0), ("one", 0..PAGE), ("joined", PAGE..3 * PAGE), ("two", RAM - PAGE..RAM)] {
            if !range.is_empty() {
                inherited.push(range);
            }
            let path = dir.path().join(name);
            inherited.save(&path).expect("saved");
            assert_eq!(InheritedPages::load(&path, RAM).expect("loaded"), inherited);
            assert!(inherited.save(&path).is_err(), "it was overwritten");
        }
        assert_eq!(inherited.ranges(), [0..3 * PAGE, RAM - PAGE..RAM]);
    }

    #[test]
    fn a_file_of_inherited_pages_that_is_missing_cut_short_or_altered_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("inherited");
        assert!(matches!(InheritedPages::load(&path, RAM), Err(VmmError::File(_))));
        let inherited = InheritedPages { ranges: vec![0..PAGE, 4 * PAGE..6 * PAGE] };
        inherited.save(&path).expect("saved");
        let whole = std::fs::read_to_string(&path).expect("read");
        let mut damaged: Vec<String> = (0..whole.len()).map(|length| whole[..length].to_owned()).collect();
        damaged.push(whole.replace("4096", "8192"));
        damaged.push(format!("{whole}0 4096\n"));
        for text in [format!("{HEADER}0 4095\n"), format!("{HEADER}0 4096\n4096 8192\n"), "0 4096\n".to_owned()] {
            damaged.push(format!("{text}{CHECKSUM}{}\n", checksum(&text)));
        }
        for text in damaged {
            std::fs::write(&path, &text).expect("written");
            let loaded = InheritedPages::load(&path, RAM);
            assert!(matches!(loaded, Err(VmmError::InheritedPages { .. })), "{text:?}: {loaded:?}");
        }
        std::fs::write(&path, &whole).expect("written");
        assert!(InheritedPages::load(&path, 5 * PAGE).is_err(), "it is of a larger memory");
        assert_eq!(InheritedPages::load(&path, RAM).expect("loaded"), inherited);
    }
}
