//! The firecracker and jailer binaries: found, and trusted only after a look at them.
//!
//! ```text
//! paths ─► nobody but root can replace them ─► static ─► `--version` ─► version::judge ─► Binaries
//! ```
//!
//! Whoever can replace them owns every sandbox and, because the jailer starts as root, the host. Called by
//! `leapbox setup`, `serve` and `doctor`. Blocking: it reads both binaries and runs them once.

mod elf;
mod published;
mod trusted;

pub use published::Provenance;
pub use trusted::{Untrusted, resolve};

use super::version::{Refusal, Version, Warning, judge};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the firecracker binary is called where its links end.
const FILE_NAME: &str = "firecracker";
/// Who has to own the binaries and every folder above them.
const ROOT_UID: u32 = 0;
/// How long `--version` may take.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of `--version`'s output that are read.
const VERSION_OUTPUT: u64 = 4096;

/// A pair of binaries that may run sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The firecracker binary, without symbolic links. Its file name is `firecracker`: the jailer names the folder of
    /// its jails after it.
    pub firecracker: PathBuf,
    /// The jailer binary, without symbolic links.
    pub jailer: PathBuf,
    /// Version of both.
    pub version: Version,
    /// SHA-256 of the firecracker binary, lowercase hexadecimal: a snapshot fits no other build.
    pub digest: String,
    /// Whether both are what upstream published under this version.
    pub provenance: Provenance,
    /// Known weaknesses of this version.
    pub warnings: Vec<Warning>,
}

/// Everything that stands against using the binaries.
#[derive(Debug, thiserror::Error)]
#[error("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct BinariesRefused {
    pub faults: Vec<BinaryFault>,
}

/// Something that stands against using a binary.
#[derive(Debug, thiserror::Error)]
pub enum BinaryFault {
    /// It is not on this host.
    #[error("no {name} in PATH")]
    NotFound { name: &'static str },
    /// Its path cannot be followed to a file.
    #[error("{path} cannot be looked at ({source})")]
    Unreadable { path: PathBuf, source: io::Error },
    /// It is a folder, a device or a socket.
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    /// Others than root could replace it.
    #[error("{path} cannot be trusted: {}", listed(untrusted))]
    Untrusted { path: PathBuf, untrusted: Vec<Untrusted> },
    /// The jailer names its jails after the file, symbolic links aside, and they would not be found again.
    #[error("{path} must be named firecracker, because the jails are named after it")]
    Name {
        /// The path, without symbolic links.
        path: PathBuf,
    },
    /// The jailer copies it into a folder without libraries.
    #[error("{path} is not a static executable, and a jail holds no libraries")]
    NotStatic { path: PathBuf },
    /// It does not start, or does not end.
    #[error("`{path} --version` does not run ({source})")]
    DoesNotRun { path: PathBuf, source: io::Error },
    /// What it prints is no version.
    #[error("`{path} --version` says {said:?}, which is no version")]
    NoVersion {
        path: PathBuf,
        /// The first line it printed.
        said: String,
    },
    /// This version, or this pair, is not used.
    #[error(transparent)]
    Version(#[from] Refusal),
}

fn listed(untrusted: &[Untrusted]) -> String {
    untrusted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Binaries {
    /// Looks at both. `None` is a binary that was not found. Everything that is wrong is told at once.
    pub fn inspect(firecracker: Option<&Path>, jailer: Option<&Path>) -> Result<Self, BinariesRefused> {
        Self::inspect_owned(firecracker, jailer, ROOT_UID)
    }

    fn inspect_owned(firecracker: Option<&Path>, jailer: Option<&Path>, owner: u32) -> Result<Self, BinariesRefused> {
        let vmm = Binary::inspect(FILE_NAME, firecracker, owner).and_then(Binary::fit_for_a_jail);
        let jailer = Binary::inspect("jailer", jailer, owner);
        let (vmm, jailer) = match (vmm, jailer) {
            (Ok(vmm), Ok(jailer)) => (vmm, jailer),
            (vmm, jailer) => {
                return Err(BinariesRefused { faults: [vmm.err(), jailer.err()].into_iter().flatten().collect() });
            }
        };
        let warnings =
            judge(&vmm.version, &jailer.version).map_err(|refusal| BinariesRefused { faults: vec![refusal.into()] })?;
        let provenance = Provenance::of(&vmm.version, &vmm.digest, &jailer.digest);
        Ok(Self {
            firecracker: vmm.path,
            jailer: jailer.path,
            version: vmm.version,
            digest: vmm.digest,
            provenance,
            warnings,
        })
    }
}

/// One of the two.
struct Binary {
    path: PathBuf,
    version: Version,
    digest: String,
}

impl Binary {
    fn inspect(name: &'static str, path: Option<&Path>, owner: u32) -> Result<Self, BinaryFault> {
        let given = path.ok_or(BinaryFault::NotFound { name })?;
        let unreadable = |source| BinaryFault::Unreadable { path: given.to_owned(), source };
        let (path, untrusted) = resolve(Path::new("/"), given, owner).map_err(unreadable)?;
        let meta = std::fs::metadata(&path).map_err(unreadable)?;
        if !meta.is_file() {
            return Err(BinaryFault::NotAFile { path });
        }
        // What others could have written is not even run.
        if !untrusted.is_empty() {
            return Err(BinaryFault::Untrusted { path: given.to_owned(), untrusted });
        }
        if meta.permissions().mode() & 0o111 == 0 {
            let source = io::Error::from(io::ErrorKind::PermissionDenied);
            return Err(BinaryFault::DoesNotRun { path, source });
        }
        let digest = digest(&path).map_err(unreadable)?;
        let said = first_line(&path).map_err(|source| BinaryFault::DoesNotRun { path: path.clone(), source })?;
        match Version::parse(&said) {
            Some(version) => Ok(Self { path, version, digest }),
            None => Err(BinaryFault::NoVersion { path, said }),
        }
    }

    fn fit_for_a_jail(self) -> Result<Self, BinaryFault> {
        if self.path.file_name().is_none_or(|name| name != FILE_NAME) {
            return Err(BinaryFault::Name { path: self.path });
        }
        match elf::is_static(&self.path) {
            Ok(true) => Ok(self),
            Ok(false) => Err(BinaryFault::NotStatic { path: self.path }),
            Err(source) => Err(BinaryFault::Unreadable { path: self.path, source }),
        }
    }
}

fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// The first line of `PROGRAM --version`, started without an environment.
fn first_line(path: &Path) -> io::Result<String> {
    let mut command = Command::new(path);
    command.arg("--version").env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let deadline = Instant::now() + VERSION_DEADLINE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(VERSION_OUTPUT).read_to_end(&mut said)?;
    }
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests;
