//! Root file systems of system templates: built from Debian's packages, packed as EROFS.
//!
//! ```text
//! Recipe ─► mmdebstrap (own mount and process namespace) ─► folder ─finish─► users, sources, image.json
//!                                                                   └► mkfs.erofs ─► root.erofs
//! ```
//!
//! The same packages give the same bytes: what is made during the build is dated like the newest packaged file.

mod finish;
mod recipe;

pub use recipe::{Recipe, system_debian};

use crate::artifacts::{IMAGE_FILE, NewArtifact, ROOTFS_FILE, StoredArtifact, Workshop};
use crate::debian_archive::{self, DebianArchive, SUITE};
use crate::error::ArtifactError;
use crate::host_command::HostCommand;
use crate::progress::Step;
use leapbox_errors::FileError;
use leapbox_guest_protocol::ImageConfig;
use std::path::Path;
use std::time::SystemTime;

/// EROFS images carry a UUID; ours are told apart by their digest, so all have this one.
const UUID: &str = "6c656170-626f-4078-a000-000000000001";

/// Makes sure a template's root file system is there. Returns what is in use.
pub fn ensure_rootfs(workshop: &mut Workshop, step: Step, recipe: &Recipe) -> Result<StoredArtifact, ArtifactError> {
    let inputs = recipe.inputs();
    let current = workshop.manifest().templates.get(recipe.name).cloned();
    if let Some(stored) = current.filter(|s| workshop.is_current(Some(s), &inputs)) {
        step.unchanged(&described(&stored));
        return Ok(stored);
    }
    let scratch = workshop.scratch("rootfs")?;
    let (tree, out) = (scratch.join("tree"), scratch.join("out"));
    std::fs::create_dir(&out).map_err(FileError::of("create", &out))?;
    let started = SystemTime::now();
    step.note("installing Debian's packages into a new root, the longest step");
    bootstrap(recipe, &scratch, &tree, &step)?;
    let image = finish::finish(recipe, &tree)?;
    step.note("packing the root file system");
    write_image_config(&image, &out.join(IMAGE_FILE))?;
    pack(&tree, &out.join(ROOTFS_FILE), started, &step)?;

    let new = NewArtifact { kind: "rootfs", prefix: "", file: ROOTFS_FILE, inputs: &inputs };
    let stored = workshop.publish(&out, new)?;
    workshop.record(|m| {
        m.templates.insert(recipe.name.to_owned(), stored.clone());
    })?;
    workshop.clear(&scratch)?;
    step.done(&described(&stored));
    Ok(stored)
}

fn described(stored: &StoredArtifact) -> String {
    format!("{:.0} MB", stored.bytes as f64 / 1e6)
}

/// Runs mmdebstrap. In namespaces of its own: when this process is killed, its mounts and processes vanish.
fn bootstrap(recipe: &Recipe, scratch: &Path, tree: &Path, step: &Step) -> Result<(), ArtifactError> {
    let archive = DebianArchive::new(scratch)?;
    let settings = debian_archive::download_settings()?;
    let command = HostCommand::new("mmdebstrap")
        .args(["--mode=root", "--format=directory", "--architectures=amd64", "--variant=minbase"])
        .arg(format!("--include={}", recipe.packages.join(",")))
        .args(recipe.excluded_files.iter().map(|glob| format!("--dpkgopt={glob}")))
        .args(settings.iter().map(|line| format!("--aptopt={line}")))
        .arg("--aptopt=Acquire::Retries \"3\"")
        .arg(format!("--customize-hook={}", recipe.customize))
        .arg(SUITE)
        .arg(tree)
        .arg(archive.sources())
        // Python would otherwise compile modules that check their source's hash at every start.
        .without_env("SOURCE_DATE_EPOCH")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .in_namespaces();
    command.run(step).map_err(ArtifactError::command("build the root file system")).map(|_| ())
}

fn write_image_config(image: &ImageConfig, path: &Path) -> Result<(), ArtifactError> {
    let text = serde_json::to_vec_pretty(image)
        .map_err(|source| ArtifactError::Unreadable { path: path.to_owned(), source })?;
    Ok(std::fs::write(path, text).map_err(FileError::of("write the image configuration", path))?)
}

fn pack(tree: &Path, image: &Path, started: SystemTime, step: &Step) -> Result<(), ArtifactError> {
    // Not compressed: reading from LZ4 takes a guest under emulation twice as long (Python's 6.8 MB: 81 ms against 43),
    // and what is read is shared by all sandboxes through the host's page cache anyway.
    //
    // Packaged files keep their dates (compiled Python names its source's); files made just now get the newest of
    // them. mkfs.erofs 1.5 clamps to SOURCE_DATE_EPOCH.
    let newest = finish::newest_before(tree, started)?;
    let command = HostCommand::new("mkfs.erofs")
        .args(["--quiet", "-U", UUID])
        .arg(image)
        .arg(tree)
        .env("SOURCE_DATE_EPOCH", newest.to_string())
        .tied();
    command.run(step).map_err(ArtifactError::command("pack the root file system")).map(|_| ())
}
