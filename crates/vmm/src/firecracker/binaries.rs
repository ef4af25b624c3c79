//! Inspects the firecracker and jailer binaries before they are used.
//!
//! ```text
//! paths ─► nobody but root can replace them ─► static ─► `--version` ─► version::judge ─► Binaries
//! ```
//!
//! Whoever can replace them controls every sandbox and, because the jailer starts as root, the host. Called by
//! `leapbox setup`, `serve` and `doctor`. Blocking: it reads both binaries and runs each once.

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

/// The name that the firecracker binary must have, once symbolic links are resolved.
const FILE_NAME: &str = "firecracker";
/// The user who must own the binaries and every directory above them.
const ROOT_UID: u32 = 0;
/// Bounds `--version`, which takes milliseconds, so that a wrong program cannot hold up the start of the server.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);
/// The most that is read of the output of `--version`, in bytes.
const VERSION_OUTPUT: u64 = 4096;

/// A pair of binaries that may run sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The firecracker binary, with symbolic links resolved. Its file name is `firecracker`: the jailer names a
    /// directory of the jail after it.
    pub firecracker: PathBuf,
    /// The jailer binary, with symbolic links resolved.
    pub jailer: PathBuf,
    /// The version of both.
    pub version: Version,
    /// SHA-256 of the firecracker binary, lowercase hexadecimal. It is part of every compatibility key.
    pub digest: String,
    /// Whether both are the files that upstream published under this version.
    pub provenance: Provenance,
    /// Known weaknesses of this version.
    pub warnings: Vec<Warning>,
}

/// All reasons for which the binaries are not used.
#[derive(Debug, thiserror::Error)]
#[error("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct BinariesRefused {
    pub faults: Vec<BinaryFault>,
}

/// A reason for which a binary is not used.
#[derive(Debug, thiserror::Error)]
pub enum BinaryFault {
    /// No directory in PATH has the program.
    #[error("no {name} in PATH")]
    NotFound { name: &'static str },
    /// The path cannot be followed to a file, or the file cannot be read.
    #[error("{path} cannot be read ({source})")]
    Unreadable { path: PathBuf, source: io::Error },
    /// The path leads to a directory, a device or a socket.
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    /// Users other than root could replace the binary.
    #[error("{path} cannot be trusted: {}", listed(untrusted))]
    Untrusted { path: PathBuf, untrusted: Vec<Untrusted> },
    /// The jailer names a directory of the jail after the resolved file name, and the driver expects `firecracker`
    /// there.
    #[error("{path} must be named firecracker, because the jails are named after it")]
    Name { path: PathBuf },
    /// The jailer copies the binary into a jail without libraries.
    #[error("{path} is not a static executable, and a jail holds no libraries")]
    NotStatic { path: PathBuf },
    /// The program does not start, or does not end in time.
    #[error("`{path} --version` does not run ({source})")]
    DoesNotRun { path: PathBuf, source: io::Error },
    /// The first line that the program prints is not a version.
    #[error("`{path} --version` printed {said:?}, which is not a version")]
    NoVersion { path: PathBuf, said: String },
    /// The driver does not work with this version, or not with this pair.
    #[error(transparent)]
    Version(#[from] Refusal),
}

fn listed(untrusted: &[Untrusted]) -> String {
    untrusted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Binaries {
    /// Inspects both binaries; `None` is one that was not found in PATH. The error lists the faults of both.
    pub fn inspect(firecracker: Option<&Path>, jailer: Option<&Path>) -> Result<Self, BinariesRefused> {
        Self::inspect_owned(firecracker, jailer, ROOT_UID)
    }

    fn inspect_owned(firecracker: Option<&Path>, jailer: Option<&Path>, owner: u32) -> Result<Self, BinariesRefused> {
        let vmm = Binary::inspect(FILE_NAME, firecracker, owner).and_then(Binary::check_fits_jail);
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

/// One of the two binaries after its inspection.
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
        // Before `--version`, because that runs the program as root.
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

    fn check_fits_jail(self) -> Result<Self, BinaryFault> {
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

/// Runs `PROGRAM --version` without an environment and returns the first line it prints.
fn first_line(path: &Path) -> io::Result<String> {
    let mut command = Command::new(path);
    command.arg("--version").env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let deadline = Instant::now() + VERSION_DEADLINE;
    // The output is read after the program's end. It fits the pipe (64 KiB); a program that prints more stops there and
    // ends at the deadline.
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
