//! The initramfs: the agent as `/init`, and the modules it loads, in the order it loads them.
//!
//! ```text
//! agent ──────────────► /init
//! modules.dep ─order──► /modules/*.ko, /modules/order (one file name a line, first to load first)
//!                       /dev/console, /dev/null, empty mount points
//! ```
//!
//! Uncompressed: a guest under emulation takes longer to decompress it than to read it.

mod cpio;
mod modules;

use crate::artifacts::{Artifacts, INITRAMFS_FILE, KernelArtifact, Manifest, NewArtifact, StoredArtifact, Workshop};
use crate::error::ArtifactError;
use crate::progress::Step;
use cpio::Archive;
use leapbox_errors::FileError;
use leapbox_storage::digest;
use std::path::Path;

/// Grows when the layout inside the archive changes.
const LAYOUT: &str = "init, modules/order, dev; 1";

/// Modules the agent loads, without what they depend on. Those the kernel has built in are skipped.
const WANTED: [&str; 13] = [
    // The machine: every device is a virtio-mmio one.
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    // The disk.
    "erofs",
    "overlay",
    "ext4",
    // What programs expect to be there: FUSE mounts, VPNs, loop mounts, `ss`.
    "fuse",
    "tun",
    "loop",
    "tcp_diag",
    "udp_diag",
    "unix_diag",
];

/// Makes sure there is an initramfs of this agent and kernel. Returns what is in use.
pub fn ensure_initramfs(
    workshop: &mut Workshop,
    step: Step,
    agent: &Path,
    kernel: &KernelArtifact,
) -> Result<StoredArtifact, ArtifactError> {
    let binary = std::fs::read(agent).map_err(FileError::of("read the agent", agent))?;
    let inputs = inputs(&binary, kernel);
    let current = workshop.manifest().initramfs.clone();
    if let Some(stored) = current.filter(|s| workshop.is_current(Some(s), &inputs)) {
        step.unchanged(&described(&stored));
        return Ok(stored);
    }
    step.note(&format!("packing {} and the kernel's modules", agent.display()));
    let archive = pack(binary, &kernel.version, &workshop.dir().join(&kernel.stored.dir).join("modules"))?;
    let scratch = workshop.scratch("initramfs")?;
    let file = scratch.join(INITRAMFS_FILE);
    std::fs::write(&file, archive).map_err(FileError::of("write the initramfs", &file))?;
    let new = NewArtifact { kind: "initramfs", prefix: "", file: INITRAMFS_FILE, inputs: &inputs };
    let stored = workshop.publish(&scratch, new)?;
    workshop.record(|m| m.initramfs = Some(stored.clone()))?;
    workshop.clear(&scratch)?;
    step.done(&described(&stored));
    Ok(stored)
}

/// True when the initramfs in use has this agent in it, and was made for the kernel in use.
pub fn initramfs_is_current(artifacts: &Artifacts, agent: &Path) -> Result<bool, ArtifactError> {
    let binary = std::fs::read(agent).map_err(FileError::of("read the agent", agent))?;
    let Manifest { kernel: Some(kernel), initramfs: Some(stored), .. } = artifacts.manifest() else {
        return Ok(false);
    };
    Ok(stored.inputs == inputs(&binary, kernel))
}

fn inputs(agent: &[u8], kernel: &KernelArtifact) -> String {
    let kernel = kernel.stored.dir.as_os_str().as_encoded_bytes();
    hex::encode(digest::of_parts(&[LAYOUT.as_bytes(), WANTED.join(" ").as_bytes(), kernel, agent]))
}

fn described(stored: &StoredArtifact) -> String {
    format!("{:.1} MB", stored.bytes as f64 / 1e6)
}

fn pack(agent: Vec<u8>, kernel: &str, modules_dir: &Path) -> Result<Vec<u8>, ArtifactError> {
    let mut archive = Archive::default();
    for dir in ["dev", "modules", "proc", "run", "sys"] {
        archive.dir(dir, 0o755);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.character_device("dev/null", 0o666, 1, 3);
    archive.file("init", 0o755, agent);
    let mut order = String::new();
    for path in modules::in_load_order(kernel, modules_dir, &WANTED)? {
        let full = modules_dir.join(&path);
        let content = std::fs::read(&full).map_err(FileError::of("read a kernel module", &full))?;
        let name = path.rsplit('/').next().unwrap_or(&path);
        archive.file(&format!("modules/{name}"), 0o644, content);
        order.push_str(name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.into_bytes());
    Ok(archive.finish())
}
