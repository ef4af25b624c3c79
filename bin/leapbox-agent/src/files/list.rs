//! Lists directories. Called by `connection`.

use super::{as_user, at, glob, info, resolve};
use crate::budget::Lease;
use crate::guest::Guest;
use crate::names::Names;
use leapbox_guest_protocol::{FaultKind, FileInfo, GuestFault, List, MAX_CONTENT, MAX_ENTRIES};
use std::fs;
use std::path::{Path, PathBuf};

/// Entries for which memory is leased at once, so that the budget's lock is not taken for each.
const STEP: usize = 1024;
// An estimate for an entry in memory and again in the frame. Paths may be longer, but the sum of their real lengths is
// bounded by `MAX_CONTENT` as well.
const ENTRY_BYTES: usize = 512;

struct Listing<'a, 'b> {
    root: PathBuf,
    request: &'a List,
    names: Names,
    lease: &'a mut Lease<'b>,
    entries: Vec<FileInfo>,
    /// Bytes that the entries take in the frame, estimated.
    bytes: usize,
}

/// Lists a directory, ordered by path. Subdirectories that the user may not read are listed but not entered.
pub(crate) fn list(guest: &Guest, request: &List, lease: &mut Lease<'_>) -> Result<Vec<FileInfo>, GuestFault> {
    let root = resolve(guest, &request.path)?;
    as_user(guest, || {
        let names = Names::read();
        let mut listing = Listing { root: root.clone(), request, names, lease, entries: Vec::new(), bytes: 0 };
        let mut pending = listing.add(&root)?;
        while let Some(directory) = pending.pop() {
            match listing.add(&directory) {
                Ok(found) => pending.extend(found),
                Err(fault) if fault.kind == FaultKind::TooLarge || fault.kind == FaultKind::Busy => {
                    return Err(fault);
                }
                // A subdirectory that was removed meanwhile, or that the user may not read.
                Err(_) => {}
            }
        }
        let mut entries = listing.entries;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    })
}

impl Listing<'_, '_> {
    /// Adds one directory's entries, and returns those of its subdirectories that are to be listed too.
    fn add(&mut self, directory: &Path) -> Result<Vec<PathBuf>, GuestFault> {
        let mut subdirectories = Vec::new();
        for entry in fs::read_dir(directory).map_err(|error| at(directory, &error))? {
            let entry = entry.map_err(|error| at(directory, &error))?;
            let path = entry.path();
            // Removed since the directory was read.
            let Ok(metadata) = entry.metadata() else { continue };
            if self.is_excluded(&path) {
                continue;
            }
            self.push(info::describe(&path, &metadata, &self.names))?;
            if self.request.recursive && metadata.is_dir() {
                subdirectories.push(path);
            }
        }
        Ok(subdirectories)
    }

    fn is_excluded(&self, path: &Path) -> bool {
        let relative = path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy();
        self.request.exclude.iter().any(|pattern| glob::matches(pattern, &relative))
    }

    fn push(&mut self, info: FileInfo) -> Result<(), GuestFault> {
        let target = info.link_target.as_ref().map_or(0, String::len);
        // 32 bytes for the numbers and lengths of an entry.
        self.bytes += info.name.len() + info.path.len() + target + info.owner.len() + info.group.len() + 32;
        if self.entries.len() == MAX_ENTRIES || self.bytes > MAX_CONTENT {
            return Err(GuestFault::new(
                FaultKind::TooLarge,
                format!(
                    "{}: has more entries than one answer carries ({MAX_ENTRIES}); exclude some, or list a subdirectory",
                    self.root.display()
                ),
            ));
        }
        if self.entries.len().is_multiple_of(STEP) {
            self.lease.grow(STEP * ENTRY_BYTES)?;
        }
        self.entries.push(info);
        Ok(())
    }
}
