//! Kernel modules of the initramfs.

use crate::log;
use leapbox_errors::{FileError, chain};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use std::fs::{self, File};
use std::path::Path;

/// Uncompressed modules, and the list of their names in dependency order.
const FOLDER: &str = "/modules";

/// Loads what `/modules/order` lists, one file name a line, and frees the memory the files take. A module that does not
/// load is told on the console; whether it was needed shows later, with a clearer error.
pub(super) fn load_all() -> Result<(), FileError> {
    let folder = Path::new(FOLDER);
    let order = folder.join("order");
    let names = fs::read_to_string(&order).map_err(FileError::of("reading", &order))?;
    for name in names.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let path = folder.join(name);
        if let Err(error) = load(&path) {
            log::line(format_args!("module {name}: {}", chain(&error)));
        }
    }
    fs::remove_dir_all(folder).map_err(FileError::of("removing", folder))
}

fn load(path: &Path) -> std::io::Result<()> {
    let file = File::open(path)?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
