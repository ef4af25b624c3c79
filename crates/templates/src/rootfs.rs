//! Root file systems of system templates, built from Debian's packages and packed as EROFS.
//!
//! ```text
//! Recipe ─► mmdebstrap (own mount and process namespace) ─► tree/ ─finish─► users, sources, image.json
//!                                                                  └► mkfs.erofs ─► root.erofs
//! ```
//!
//! The same packages give the same bytes: files that the build creates are dated like the newest packaged file.

mod finish;
mod recipe;

pub use recipe::{Recipe, system_debian};

use crate::artifacts::{ArtifactBuilder, IMAGE_FILE, NewArtifact, ROOTFS_FILE, StoredArtifact};
use crate::debian_archive::{self, DebianArchive, SUITE};
use crate::error::ArtifactError;
use crate::host_command::HostCommand;
use crate::progress::Step;
use leapbox_errors::FileError;
use leapbox_guest_protocol::ImageConfig;
use std::path::Path;
use std::time::SystemTime;

// An EROFS image has a UUID, which is random by default. A fixed one keeps equal contents equal; images are identified
// by their digest.
const UUID: &str = "6c656170-626f-4078-a000-000000000001";

/// Builds a template's root file system unless it is there already, and returns the one in use.
pub fn ensure_rootfs(
    builder: &mut ArtifactBuilder,
    step: Step,
    recipe: &Recipe,
) -> Result<StoredArtifact, ArtifactError> {
    let inputs = recipe.inputs();
    let current = builder.manifest().templates.get(recipe.name).cloned();
    if let Some(stored) = current.filter(|s| builder.is_current(Some(s), &inputs)) {
        step.unchanged(&described(&stored));
        return Ok(stored);
    }
    let scratch = builder.scratch("rootfs")?;
    let (tree, out) = (scratch.join("tree"), scratch.join("out"));
    std::fs::create_dir(&out).map_err(FileError::of("creating", &out))?;
    let started = SystemTime::now();
    step.note("installing Debian's packages into a new root, the longest step");
    bootstrap(recipe, &scratch, &tree, &step)?;
    let image = finish::finish(recipe, &tree)?;
    step.note("packing the root file system");
    write_image_config(&image, &out.join(IMAGE_FILE))?;
    pack(&tree, &out.join(ROOTFS_FILE), started, &step)?;

    let new = NewArtifact { kind: "rootfs", prefix: "", file: ROOTFS_FILE, inputs: &inputs };
    let stored = builder.publish(&out, new)?;
    builder.record(|m| {
        m.templates.insert(recipe.name.to_owned(), stored.clone());
    })?;
    builder.clear(&scratch)?;
    step.done(&described(&stored));
    Ok(stored)
}

fn described(stored: &StoredArtifact) -> String {
    format!("{:.0} MB", stored.bytes as f64 / 1e6)
}

/// Installs the recipe's packages into the new directory `tree` with mmdebstrap.
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
        // With it, Python compiles modules so that they check their source's hash at every start.
        .without_env("SOURCE_DATE_EPOCH")
        .env("DEBIAN_FRONTEND", "noninteractive")
        // It mounts /proc, /sys and parts of /dev into the tree. If set-up is killed, these mounts must not stay,
        // because the next builder removes the tree.
        .in_namespaces();
    command.run(step).map_err(ArtifactError::command("building the root file system")).map(|_| ())
}

fn write_image_config(image: &ImageConfig, path: &Path) -> Result<(), ArtifactError> {
    let text = serde_json::to_vec_pretty(image)
        .map_err(|source| ArtifactError::Unreadable { path: path.to_owned(), source })?;
    Ok(std::fs::write(path, text).map_err(FileError::of("writing the image configuration", path))?)
}

fn pack(tree: &Path, image: &Path, started: SystemTime, step: &Step) -> Result<(), ArtifactError> {
    // Not compressed: reading from LZ4 takes a guest under emulation twice as long (Python's 6.8 MB: 81 ms against 43),
    // and all sandboxes share what is read through the host's page cache anyway.
    //
    // Packaged files keep their dates, because compiled Python modules name their source's. Files of the build itself
    // get the newest of those: mkfs.erofs 1.5 clamps dates to SOURCE_DATE_EPOCH.
    let newest = finish::newest_before(tree, started)?;
    let command = HostCommand::new("mkfs.erofs")
        .args(["--quiet", "-U", UUID])
        .arg(image)
        .arg(tree)
        .env("SOURCE_DATE_EPOCH", newest.to_string())
        .killed_with_us();
    command.run(step).map_err(ArtifactError::command("packing the root file system")).map(|_| ())
}
