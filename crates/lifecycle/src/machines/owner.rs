//! The mark in a machine's directory that says which sandbox it was made into, and when. By it a starting server tells a
//! machine that was never anybody's (half made, or of the pool), which it removes, from one that its database does not
//! know because it was put back from a backup.

use super::Owner;
use leapbox_errors::FileError;
use std::path::Path;

const FILE: &str = "owner";

/// Marks the machine in the directory `dir`.
pub(super) fn write(dir: &Path, owner: &Owner) -> Result<(), FileError> {
    let path = dir.join(FILE);
    // Not synced: after a power failure no machine runs, and the mark is for those that do.
    std::fs::write(&path, format!("{} {}", owner.sandbox, owner.sequence)).map_err(FileError::of("writing", &path))
}

/// Reads the mark of the machine `name`; `None` if it has none.
pub(super) fn read(machines_dir: &Path, name: &str) -> Option<Owner> {
    // Only root can write there, so a mark that cannot be parsed was cut off by a crash while it was written: the
    // sandbox had not been acknowledged then.
    let text = std::fs::read_to_string(machines_dir.join(name).join(FILE)).ok()?;
    let (sandbox, sequence) = text.trim().split_once(' ')?;
    Some(Owner { sandbox: sandbox.parse().ok()?, sequence: sequence.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use leapbox_ids::SandboxId;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_a_torn_one_is_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let machine = dir.path().join("vm-1");
        std::fs::create_dir(&machine).expect("made");
        assert_eq!(read(dir.path(), "vm-1"), None);
        let owner = Owner { sandbox: SandboxId::generate(), sequence: 7 };
        write(&machine, &owner).expect("written");
        assert_eq!(read(dir.path(), "vm-1"), Some(owner.clone()));
        std::fs::write(machine.join(FILE), owner.sandbox.as_str()).expect("written");
        assert_eq!(read(dir.path(), "vm-1"), None);
    }
}
