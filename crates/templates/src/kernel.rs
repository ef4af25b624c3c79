//! The guest kernel: Debian's stock cloud kernel, its ELF vmlinux and its modules.
//!
//! ```text
//! linux-image-cloud-amd64 ─depends─► linux-image-<version> ─apt─► .deb ─dpkg-deb─► boot/vmlinuz-<version>
//!                                                                        └► lib/modules ─depmod─► modules/
//!                                               vmlinuz ─bzimage─► payload ─lz4 | xz | zstd | gzip─► vmlinux
//! ```
//!
//! Both VMM drivers start the ELF file: Firecracker reads nothing else, and QEMU's microvm boots it without firmware.

mod bzimage;

use crate::artifacts::{KERNEL_FILE, KernelArtifact, Workshop};
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

const METAPACKAGE: &str = "linux-image-cloud-amd64";
/// Grows when what is made of the package changes.
const RECIPE: &str = "vmlinux, modules with modules.dep, config; 1";

/// What to do about a kernel that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelRefresh {
    /// It stays.
    Keep,
    /// It is replaced when the archive has a newer one.
    Newest,
}

/// Makes sure there is a guest kernel. Returns what is in use.
pub fn ensure_kernel(
    workshop: &mut Workshop,
    step: Step,
    refresh: KernelRefresh,
) -> Result<KernelArtifact, ArtifactError> {
    let inputs = hex::encode(digest::of_parts(&[METAPACKAGE.as_bytes(), RECIPE.as_bytes()]));
    let current = workshop.manifest().kernel.clone();
    if let Some(kernel) = current.filter(|k| workshop.is_current(Some(&k.stored), &inputs))
        && refresh == KernelRefresh::Keep
    {
        step.unchanged(&kernel.version);
        return Ok(kernel);
    }
    let scratch = workshop.scratch("kernel")?;
    let package = fetch(&scratch, &step)?;
    let kernel = unpack(workshop, &scratch, &package, &inputs, &step)?;
    workshop.record(|m: &mut Manifest| m.kernel = Some(kernel.clone()))?;
    workshop.clear(&scratch)?;
    step.done(&format!("{} from {}", kernel.version, kernel.package));
    Ok(kernel)
}

/// Downloads the package the metapackage stands for today.
fn fetch(scratch: &Path, step: &Step) -> Result<PathBuf, ArtifactError> {
    step.note("fetching Debian's package lists");
    let archive = DebianArchive::new(scratch)?;
    archive.update(step)?;
    let package = archive.dependency(METAPACKAGE, "linux-image-")?;
    step.note(&format!("downloading {package}"));
    let dir = scratch.join("deb");
    std::fs::create_dir(&dir).map_err(FileError::of("create", &dir))?;
    archive.download(&package, &dir, step)
}

fn unpack(
    workshop: &Workshop,
    scratch: &Path,
    package: &Path,
    inputs: &str,
    step: &Step,
) -> Result<KernelArtifact, ArtifactError> {
    step.note("unpacking the kernel");
    let (tree, out) = (scratch.join("tree"), scratch.join("out"));
    std::fs::create_dir(&out).map_err(FileError::of("create", &out))?;
    let unpacking = HostCommand::new("dpkg-deb").arg("-x").arg(package).arg(&tree).in_namespaces();
    unpacking.run(step).map_err(ArtifactError::command("unpack the kernel package"))?;

    let (vmlinuz, version) = find_vmlinuz(&tree)?;
    extract_vmlinux(&vmlinuz, scratch, &out.join(KERNEL_FILE))?;
    let indexing = HostCommand::new("depmod").arg("-b").arg(&tree).arg(&version).tied();
    indexing.run(step).map_err(ArtifactError::command("index the kernel's modules"))?;
    for (from, to) in [(format!("boot/config-{version}"), "config"), (format!("lib/modules/{version}"), "modules")] {
        let from = tree.join(from);
        std::fs::rename(&from, out.join(to)).map_err(FileError::of("take out of the package", &from))?;
    }
    let prefix = format!("{version}-");
    let new = NewArtifact { kind: "kernel", prefix: &prefix, file: KERNEL_FILE, inputs };
    let stored = workshop.publish(&out, new)?;
    let package = package.file_stem().unwrap_or_default().to_string_lossy().replace("%3a", ":");
    Ok(KernelArtifact { version, package, stored })
}

/// The package's one kernel image, and its version.
fn find_vmlinuz(tree: &Path) -> Result<(PathBuf, String), ArtifactError> {
    let boot = tree.join("boot");
    let entries = std::fs::read_dir(&boot).map_err(FileError::of("list", &boot))?;
    let found = entries.flatten().find_map(|e| {
        let version = e.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned();
        Some((e.path(), version))
    });
    found.ok_or(ArtifactError::Package {
        package: METAPACKAGE.to_owned(),
        reason: "there is no boot/vmlinuz in the package",
    })
}

/// Takes the ELF file out of a bzImage and checks its length and magic.
fn extract_vmlinux(vmlinuz: &Path, scratch: &Path, to: &Path) -> Result<(), ArtifactError> {
    let wrong = |reason| ArtifactError::KernelImage { path: vmlinuz.to_owned(), reason };
    let image = std::fs::read(vmlinuz).map_err(FileError::of("read the kernel image", vmlinuz))?;
    let Payload { compression, stream, length } = bzimage::payload(&image).map_err(wrong)?;
    let packed = scratch.join("payload");
    std::fs::write(&packed, stream).map_err(FileError::of("write the packed kernel", &packed))?;
    let out = File::create(to).map_err(FileError::of("create", to))?;
    decompressor(compression)
        .arg(&packed)
        .tied()
        .run_into(out)
        .map_err(ArtifactError::command("decompress the kernel"))?;

    let vmlinux = std::fs::read(to).map_err(FileError::of("read the unpacked kernel", to))?;
    if vmlinux.len() as u64 != u64::from(length) {
        return Err(wrong("its payload has not the length its trailer says"));
    }
    if !vmlinux.starts_with(b"\x7fELF") {
        return Err(wrong("its payload is no ELF file"));
    }
    Ok(())
}

/// A command that writes the decompressed content of its file argument to standard output.
fn decompressor(compression: Compression) -> HostCommand {
    match compression {
        Compression::Gzip => HostCommand::new("gzip").args(["-dc"]),
        Compression::Xz => HostCommand::new("xz").args(["-dc", "--format=xz"]),
        Compression::Zstd => HostCommand::new("zstd").args(["-dcq"]),
        Compression::Lz4 => HostCommand::new("lz4").args(["-dcq"]),
    }
}
