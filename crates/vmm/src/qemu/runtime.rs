//! QEMU's own root: copies of the program, its libraries and its firmware in one directory, whose subdirectories are
//! bound into the read-only root of every QEMU process (see [`crate::confine`]).
//!
//! A QEMU can open nothing else of the host. An upgrade of the host's package changes no running machine, because each
//! build is copied into a directory of its own.

use crate::error::VmmError;
use leapbox_errors::FileError;
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// QEMU's path, on the host and in its own root alike: it finds its modules and firmware relative to its program.
pub(super) const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";
const INSTALL_HINT: &str = "install it with `apt-get install qemu-system-x86`, or run `leapbox setup`";
/// All libraries are copied here. It is one of the directories in which Debian's dynamic loader looks without
/// /etc/ld.so.cache, which is not in the root.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
/// The TCG accelerator, which Debian 12 builds as a module of its own.
const MODULE: &str = "usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so";
const FIRMWARE: [&str; 4] = [
    "usr/share/qemu/bios-microvm.bin",
    "usr/share/qemu/pvh.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/qemu/linuxboot.bin",
];

/// The prepared root of one build of QEMU.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub root: PathBuf,
    /// A hash that identifies this build of QEMU and its libraries; part of the compatibility key.
    pub digest: String,
    /// The first line that `--version` prints.
    pub version: String,
}

/// One file to copy.
struct Part {
    source: PathBuf,
    /// Its path in the root, without a leading slash.
    place: String,
}

impl Runtime {
    /// Prepares the root of the installed QEMU under `dir`, unless that has been done. Blocking.
    pub fn prepare(dir: &Path) -> Result<Self, VmmError> {
        let version = version()?;
        let parts = parts()?;
        let digest = digest(&version, &parts)?;
        let root = dir.join(format!("qemu-{}", &digest[..12]));
        // `build` renames the finished root to this name, so one that exists is complete.
        if !root.exists() {
            build(dir, &root, &parts)?;
        }
        Ok(Self { root, digest, version })
    }
}

fn version() -> Result<String, VmmError> {
    let output = run(Command::new(PROGRAM).arg("--version"))?;
    Ok(output.lines().next().unwrap_or_default().to_owned())
}

fn run(command: &mut Command) -> Result<String, VmmError> {
    let missing = |_| VmmError::Missing { what: PROGRAM.to_owned(), hint: INSTALL_HINT.to_owned() };
    // In an environment of its own: `LD_PRELOAD` or `LD_LIBRARY_PATH` of the server would change which files are found,
    // and with them the compatibility key of everything that is stored.
    let output = command.env_clear().output().map_err(missing)?;
    if !output.status.success() {
        let message = format!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        return Err(VmmError::Launch { message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Lists the files of the root: program, accelerator, the libraries that `ldd` finds for both, loader and firmware.
fn parts() -> Result<Vec<Part>, VmmError> {
    let module = format!("/{MODULE}");
    let mut parts = vec![
        Part { source: PROGRAM.into(), place: PROGRAM.trim_start_matches('/').to_owned() },
        Part { source: format!("/{LOADER}").into(), place: LOADER.to_owned() },
    ];
    let mut programs = vec![PROGRAM];
    // The module is loaded by dlopen, so its libraries are not among the program's. Builds without modules, such as
    // Debian 13's, have the accelerator in the program.
    if Path::new(&module).exists() {
        parts.push(Part { source: module.clone().into(), place: MODULE.to_owned() });
        programs.push(&module);
    }
    for line in run(Command::new("ldd").args(programs))?.lines() {
        let Some((name, rest)) = line.trim().split_once(" => ") else { continue };
        let Some(path) = rest.split(" (").next().filter(|path| path.starts_with('/')) else { continue };
        let place = format!("{LIBRARIES}/{name}");
        if !parts.iter().any(|part| part.place == place) {
            parts.push(Part { source: path.into(), place });
        }
    }
    let firmware = FIRMWARE.iter().map(|place| Part { source: format!("/{place}").into(), place: (*place).to_owned() });
    parts.extend(firmware.filter(|part| part.source.exists()));
    Ok(parts)
}

/// Identifies a build by its version and the path, size and modification time of every file.
fn digest(version: &str, parts: &[Part]) -> Result<String, VmmError> {
    let mut hash = Sha256::new();
    hash.update(version);
    for part in parts {
        // Not by the contents, all of which would have to be read at every start. A package sets the times of its
        // files, so they are the same on all hosts that have installed the same one.
        let meta = fs::metadata(&part.source).map_err(FileError::of("reading", &part.source))?;
        hash.update(format!("{} {} {}\n", part.place, meta.size(), meta.mtime()));
    }
    Ok(hex::encode(hash.finalize()))
}

fn build(dir: &Path, root: &Path, parts: &[Part]) -> Result<(), VmmError> {
    let temporary = dir.join(format!(".qemu-{}", std::process::id()));
    let _ = fs::remove_dir_all(&temporary);
    for part in parts {
        let target = temporary.join(&part.place);
        let parent = target.parent().unwrap_or(&temporary);
        fs::create_dir_all(parent).map_err(FileError::of("creating", parent))?;
        fs::copy(&part.source, &target).map_err(FileError::of("copying to", &target))?;
        let mode = fs::Permissions::from_mode(0o555);
        fs::set_permissions(&target, mode).map_err(FileError::of("setting the mode of", &target))?;
    }
    Ok(fs::rename(&temporary, root).map_err(FileError::of("moving into place", root))?)
}
