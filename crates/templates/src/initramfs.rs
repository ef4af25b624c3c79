//! The initramfs: the agent as `/init`, and the kernel modules that it loads.
//!
//! ```text
//! agent ──────────────► /init
//! modules.dep ─order──► /modules/*.ko, /modules/order (one file name a line, first to load first)
//!                       /dev/console, /dev/null, empty mount points
//! ```
//!
//! It is not compressed, because a guest under emulation takes longer to decompress it than to read it.

mod cpio;
mod modules;

use crate::artifacts::{
    ArtifactBuilder, Artifacts, INITRAMFS_FILE, KernelArtifact, Manifest, NewArtifact, StoredArtifact,
};
use crate::error::ArtifactError;
use crate::progress::Step;
use cpio::Archive;
use leapbox_errors::FileError;
use leapbox_storage::digest;
use std::path::Path;

/// Part of the artifact's inputs: to be changed with the layout inside the archive, so that it is built anew.
const LAYOUT: &str = "init, modules/order, dev; 1";

/// The modules that the agent loads; those that they depend on are added. A module that the kernel has built in is
/// skipped.
const WANTED: [&str; 13] = [
    // Every device of the machine is a virtio-mmio one.
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    // The root: the shared image, the overlay above it, and the sandbox's own disk.
    "erofs",
    "overlay",
    "ext4",
    // For programs of the workload: FUSE mounts, VPNs, loop mounts, `ss`. Once the root is switched, the modules' files
    // are gone, and nothing could load them later.
    "fuse",
    "tun",
    "loop",
    "tcp_diag",
    "udp_diag",
    "unix_diag",
];

/// Builds the initramfs of this agent and kernel unless it is there already, and returns the one in use.
pub fn ensure_initramfs(
    builder: &mut ArtifactBuilder,
    step: Step,
    agent: &Path,
    kernel: &KernelArtifact,
) -> Result<StoredArtifact, ArtifactError> {
    let binary = std::fs::read(agent).map_err(FileError::of("reading the agent", agent))?;
    let inputs = inputs(&binary, kernel);
    let current = builder.manifest().initramfs.clone();
    if let Some(stored) = current.filter(|s| builder.is_current(Some(s), &inputs)) {
        step.unchanged(&described(&stored));
        return Ok(stored);
    }
    step.note(&format!("packing {} and the kernel's modules", agent.display()));
    let archive = pack(binary, &kernel.version, &builder.dir().join(&kernel.stored.dir).join("modules"))?;
    let scratch = builder.scratch("initramfs")?;
    let file = scratch.join(INITRAMFS_FILE);
    std::fs::write(&file, archive).map_err(FileError::of("writing the initramfs", &file))?;
    let new = NewArtifact { kind: "initramfs", prefix: "", file: INITRAMFS_FILE, inputs: &inputs };
    let stored = builder.publish(&scratch, new)?;
    builder.record(|m| m.initramfs = Some(stored.clone()))?;
    builder.clear(&scratch)?;
    step.done(&described(&stored));
    Ok(stored)
}

/// Whether the initramfs in use contains this agent and was built for the kernel in use; `leapbox doctor` checks it.
pub fn initramfs_is_current(artifacts: &Artifacts, agent: &Path) -> Result<bool, ArtifactError> {
    let binary = std::fs::read(agent).map_err(FileError::of("reading the agent", agent))?;
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
    // The kernel opens /dev/console as the standard streams of `/init` before anything could have mounted devtmpfs.
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.character_device("dev/null", 0o666, 1, 3);
    archive.file("init", 0o755, agent);
    let mut order = String::new();
    for path in modules::in_load_order(kernel, modules_dir, &WANTED)? {
        let full = modules_dir.join(&path);
        let content = std::fs::read(&full).map_err(FileError::of("reading a kernel module", &full))?;
        let name = path.rsplit('/').next().unwrap_or(&path);
        archive.file(&format!("modules/{name}"), 0o644, content);
        order.push_str(name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.into_bytes());
    Ok(archive.finish())
}
