//! The guest kernel: Debian's stock cloud kernel, its ELF vmlinux and its modules.
//!
//! ```text
//! linux-image-cloud-amd64 ─depends─► linux-image-<version> ─apt─► .deb ─dpkg-deb─► boot/vmlinuz-<version>
//!                                                                        └► lib/modules ─depmod─► modules/
//!                                               vmlinuz ─bzimage─► payload ─lz4 | xz | zstd | gzip─► vmlinux
//! ```
//!
//! Both VMM drivers start the ELF file: Firecracker can load nothing else, and QEMU's microvm loads it as well.

mod bzimage;

use crate::artifacts::{ArtifactBuilder, KERNEL_FILE, KernelArtifact};
use crate::artifacts::{Manifest, NewArtifact};
use crate::debian_archive::DebianArchive;
use crate::error::ArtifactError;
use crate::host_command::HostCommand;
use crate::progress::Step;
use bzimage::{Compression, Payload};
use leapbox_errors::FileError;
use leapbox_storage::digest;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Depends on the package of the current kernel, whose name contains the version.
const METAPACKAGE: &str = "linux-image-cloud-amd64";
/// Part of the artifact's inputs: to be changed when other files are taken from the package, so that it is built anew.
const RECIPE: &str = "vmlinux, modules with modules.dep, config; 1";

/// Whether a kernel that was built before stays in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelRefresh {
    /// It stays, and the archive is not asked. A newer kernel would make all bases be created anew.
    Keep,
    /// The archive's current kernel is used (`leapbox setup --upgrade`).
    Newest,
}

/// Builds the guest kernel unless it is there already, and returns the one in use.
pub fn ensure_kernel(
    builder: &mut ArtifactBuilder,
    step: Step,
    refresh: KernelRefresh,
) -> Result<KernelArtifact, ArtifactError> {
    let inputs = hex::encode(digest::of_parts(&[METAPACKAGE.as_bytes(), RECIPE.as_bytes()]));
    let current = builder.manifest().kernel.clone();
    if let Some(kernel) = current.filter(|k| builder.is_current(Some(&k.stored), &inputs))
        && refresh == KernelRefresh::Keep
    {
        step.unchanged(&kernel.version);
        return Ok(kernel);
    }
    let scratch = builder.scratch("kernel")?;
    let package = fetch(&scratch, &step)?;
    let kernel = unpack(builder, &scratch, &package, &inputs, &step)?;
    builder.record(|m: &mut Manifest| m.kernel = Some(kernel.clone()))?;
    builder.clear(&scratch)?;
    step.done(&format!("{} from {}", kernel.version, kernel.package));
    Ok(kernel)
}

/// Downloads the kernel package that the metapackage depends on today, and returns its file.
fn fetch(scratch: &Path, step: &Step) -> Result<PathBuf, ArtifactError> {
    step.note("fetching Debian's package lists");
    let archive = DebianArchive::new(scratch)?;
    archive.update(step)?;
    let package = archive.dependency(METAPACKAGE, "linux-image-")?;
    step.note(&format!("downloading {package}"));
    let dir = scratch.join("deb");
    std::fs::create_dir(&dir).map_err(FileError::of("creating", &dir))?;
    archive.download(&package, &dir, step)
}

fn unpack(
    builder: &ArtifactBuilder,
    scratch: &Path,
    package: &Path,
    inputs: &str,
    step: &Step,
) -> Result<KernelArtifact, ArtifactError> {
    step.note("unpacking the kernel");
    let (tree, out) = (scratch.join("tree"), scratch.join("out"));
    std::fs::create_dir(&out).map_err(FileError::of("creating", &out))?;
    let unpacking = HostCommand::new("dpkg-deb").arg("-x").arg(package).arg(&tree).in_namespaces();
    unpacking.run(step).map_err(ArtifactError::command("unpacking the kernel package"))?;

    let (vmlinuz, version) = find_vmlinuz(&tree)?;
    extract_vmlinux(&vmlinuz, scratch, &out.join(KERNEL_FILE))?;
    let indexing = HostCommand::new("depmod").arg("-b").arg(&tree).arg(&version).killed_with_us();
    indexing.run(step).map_err(ArtifactError::command("indexing the kernel's modules"))?;
    for (from, to) in [(format!("boot/config-{version}"), "config"), (format!("lib/modules/{version}"), "modules")] {
        let from = tree.join(from);
        std::fs::rename(&from, out.join(to)).map_err(FileError::of("moving out of the package", &from))?;
    }
    let prefix = format!("{version}-");
    let new = NewArtifact { kind: "kernel", prefix: &prefix, file: KERNEL_FILE, inputs };
    let stored = builder.publish(&out, new)?;
    // apt encodes the colon of an epoch in file names.
    let package = package.file_stem().unwrap_or_default().to_string_lossy().replace("%3a", ":");
    Ok(KernelArtifact { version, package, stored })
}

/// The package's only kernel image, and its version.
fn find_vmlinuz(tree: &Path) -> Result<(PathBuf, String), ArtifactError> {
    let boot = tree.join("boot");
    let entries = std::fs::read_dir(&boot).map_err(FileError::of("listing", &boot))?;
    let found = entries.flatten().find_map(|e| {
        let version = e.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned();
        Some((e.path(), version))
    });
    found.ok_or(ArtifactError::Package {
        package: METAPACKAGE.to_owned(),
        reason: "there is no boot/vmlinuz in the package",
    })
}

/// Extracts the ELF file from a bzImage.
fn extract_vmlinux(vmlinuz: &Path, scratch: &Path, to: &Path) -> Result<(), ArtifactError> {
    let wrong = |reason| ArtifactError::KernelImage { path: vmlinuz.to_owned(), reason };
    let image = std::fs::read(vmlinuz).map_err(FileError::of("reading the kernel image", vmlinuz))?;
    let Payload { compression, stream, length } = bzimage::payload(&image).map_err(wrong)?;
    let packed = scratch.join("payload");
    std::fs::write(&packed, stream).map_err(FileError::of("writing the packed kernel", &packed))?;
    let out = File::create(to).map_err(FileError::of("creating", to))?;
    decompressor(compression)
        .arg(&packed)
        .killed_with_us()
        .run_into(out)
        .map_err(ArtifactError::command("decompressing the kernel"))?;

    // The stream was found by its magic number, so its output is checked: by the length that the kernel's build has
    // noted behind it, and by being an ELF file.
    let vmlinux = std::fs::read(to).map_err(FileError::of("reading the unpacked kernel", to))?;
    if vmlinux.len() as u64 != u64::from(length) {
        return Err(wrong("its payload does not have the length that its trailer says"));
    }
    if !vmlinux.starts_with(b"\x7fELF") {
        return Err(wrong("its payload is not an ELF file"));
    }
    Ok(())
}

/// The command that writes the decompressed content of its file argument to standard output.
fn decompressor(compression: Compression) -> HostCommand {
    match compression {
        Compression::Gzip => HostCommand::new("gzip").args(["-dc"]),
        Compression::Xz => HostCommand::new("xz").args(["-dc", "--format=xz"]),
        Compression::Zstd => HostCommand::new("zstd").args(["-dcq"]),
        Compression::Lz4 => HostCommand::new("lz4").args(["-dcq"]),
    }
}
