//! QEMU's own root: the program, its libraries and its firmware, copied once into a folder that becomes the read-only
//! root of every QEMU process, bound folder by folder.
//!
//! Nothing else of the host can be named from inside it, and an upgrade of the host's package changes neither running
//! machines nor the snapshots made with the old build: each build has a folder of its own.

use crate::error::VmmError;
use leapbox_errors::FileError;
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// QEMU, on the host and in its own root alike: it finds its modules and firmware relative to where it lies.
pub(super) const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";
const INSTALL_HINT: &str = "install it with `apt-get install qemu-system-x86`, or run `leapbox setup`";
/// Where Debian's dynamic loader looks without a cache.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
/// The accelerator is a module of its own in Debian's build.
const MODULE: &str = "usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so";
const FIRMWARE: [&str; 4] = [
    "usr/share/qemu/bios-microvm.bin",
    "usr/share/qemu/pvh.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/qemu/linuxboot.bin",
];

/// A prepared root.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// The folder.
    pub root: PathBuf,
    /// Hash that names this build of QEMU and its libraries.
    pub digest: String,
    /// What `--version` says, first line.
    pub version: String,
}

/// One file of the host and its place in the root.
struct Part {
    source: PathBuf,
    place: String,
}

impl Runtime {
    /// Prepares the root of the installed QEMU under `dir`, unless it is there already. Blocking.
    pub fn prepare(dir: &Path) -> Result<Self, VmmError> {
        let version = version()?;
        let parts = parts()?;
        let digest = digest(&version, &parts)?;
        let root = dir.join(format!("qemu-{}", &digest[..12]));
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
    let output = command.output().map_err(missing)?;
    if !output.status.success() {
        let message = format!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        return Err(VmmError::Launch { message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The program, what `ldd` finds for it and for the accelerator, the loader and the firmware.
fn parts() -> Result<Vec<Part>, VmmError> {
    let module = format!("/{MODULE}");
    let mut parts = vec![
        Part { source: PROGRAM.into(), place: PROGRAM.trim_start_matches('/').to_owned() },
        Part { source: format!("/{LOADER}").into(), place: LOADER.to_owned() },
    ];
    let mut programs = vec![PROGRAM];
    // Builds without modules have the accelerator inside.
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

/// Names a build by its version and by place, size and time of every file (packages carry their files' times).
fn digest(version: &str, parts: &[Part]) -> Result<String, VmmError> {
    let mut hash = Sha256::new();
    hash.update(version);
    for part in parts {
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
