//! Loads the kernel modules of the initramfs. Called once at boot, before any device is used.

use crate::log;
use leapbox_errors::{FileError, chain};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use std::fs::{self, File};
use std::path::Path;

/// Directory of the initramfs that holds uncompressed modules and the file `order`, a list of their names in the order
/// of their dependencies. Set-up makes both (`templates`).
const FOLDER: &str = "/modules";

/// Loads what `/modules/order` lists, one file name a line, and removes the directory.
pub(super) fn load_all() -> Result<(), FileError> {
    let folder = Path::new(FOLDER);
    let order = folder.join("order");
    let names = fs::read_to_string(&order).map_err(FileError::of("reading", &order))?;
    for name in names.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let path = folder.join(name);
        if let Err(error) = load(&path) {
            // Not fatal: whether the module was needed shows later, as an error that names the disk or card that is
            // missing.
            log::line(format_args!("cannot load the kernel module {name}: {}", chain(&error)));
        }
    }
    // The initramfs is in memory, and its pages would be a part of every base snapshot.
    fs::remove_dir_all(folder).map_err(FileError::of("removing", folder))
}

fn load(path: &Path) -> std::io::Result<()> {
    let file = File::open(path)?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        // A module that is built into this kernel, or loaded already.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
