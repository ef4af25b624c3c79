//! From the kernel's first process to a guest that can be asked.
//!
//! ```text
//! boot_bare: /dev /proc /sys → modules → channel NIC into a network namespace of its own → listener there
//!            ┄┄ `bare` answers, and a snapshot may be taken: no disk has been opened ┄┄► `Mount`
//! mount:     disks by superblock → EROFS ro + ext4 rw → overlay → switch root
//!            → /proc /sys /dev … → cgroups, limits → /etc → eth0 and loopback → identity, trust → Guest
//! ```
//!
//! Everything happens on the main thread, once, before any other process exists. A failure ends PID 1, and with it the
//! machine, after its cause was written to the console. Called by `main`.

mod channel;
mod disks;
mod etc;
mod interface;
mod limits;
mod modules;
mod netlink;
mod root;
mod workload_net;

use crate::cgroup::Cgroups;
use crate::configure::{BOOT_ID_PATH, IdentityFiles};
use crate::guest::Guest;
use crate::names;
use crate::trust::{self, TrustStore};
use crate::workload::Workload;
use leapbox_errors::FileError;
use leapbox_guest_protocol::{ImageConfig, net};
use std::error::Error;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where an image says how its processes run.
const IMAGE_FILE: &str = "/.leapbox/image.json";
/// Folder of the initramfs for the agent's own files: in memory, and out of the guest's sight once the root is switched.
const HIDDEN: &str = "/hidden";

/// A step of booting that failed.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A path could not be made, read, written or mounted.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not all disks appeared.
    #[error("{found} of {expected} disks")]
    FewDisks {
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// No disk with the wanted file system appeared.
    #[error("no disk with an {filesystem} file system")]
    NoDisk { filesystem: &'static str },
    /// The image's configuration is not understood.
    #[error("{IMAGE_FILE} is not valid")]
    Image {
        #[source]
        source: serde_json::Error,
    },
    /// There is no network card with the address it should have.
    #[error("no network card has the address {mac}")]
    NoCard { mac: String },
    /// A network card could not be set up.
    #[error("{step} {interface}")]
    Network {
        step: &'static str,
        interface: String,
        #[source]
        source: std::io::Error,
    },
}

impl BootError {
    /// For `map_err`.
    fn network<E: Into<std::io::Error>>(step: &'static str, interface: &str) -> impl FnOnce(E) -> Self {
        let interface = interface.to_owned();
        move |source| BootError::Network { step, interface, source: source.into() }
    }
}

/// Boots a guest that waits for its disks. The listener is the agent's port on the guest channel.
pub fn boot_bare() -> Result<TcpListener, Box<dyn Error>> {
    root::mount_initramfs()?;
    limits::protect_agent();
    modules::load_all()?;
    disks::wait_for_devices()?;
    Ok(channel::listen()?)
}

/// The rest of the boot, with the disks that are there now.
pub fn mount() -> Result<Arc<Guest>, Box<dyn Error>> {
    let disks = disks::find()?;
    root::assemble(&disks)?;
    // Opened while its path can be reached; see `IdentityFiles`.
    fs::create_dir_all(HIDDEN).map_err(FileError::of("making", HIDDEN))?;
    let hidden = fs::File::open(HIDDEN).map_err(FileError::of("opening", HIDDEN))?;
    root::switch()?;
    root::mount_guest()?;
    limits::apply()?;
    let cgroups = limits::make_cgroups()?;
    let image = read_image()?;
    etc::write()?;
    workload_net::set_up()?;
    let hidden = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&hidden)));
    let identity = IdentityFiles::install(&hidden, Path::new("/etc"), Path::new(BOOT_ID_PATH))?;
    let trust = TrustStore::install(Path::new("/"), &hidden, Path::new(trust::FOLDER))?;
    let shell = names::login_shell(Path::new("/etc/passwd"), image.uid);
    let shell = shell.unwrap_or_else(|| "/bin/sh".to_owned());
    let (cgroups, workload) = (Cgroups::new(cgroups), Workload::below(limits::CGROUPS));
    let guest = Guest::new(image, shell, cgroups, workload, identity, trust, net::WORKLOAD_GUEST)?;
    Ok(Arc::new(guest))
}

fn read_image() -> Result<ImageConfig, BootError> {
    let text = fs::read(IMAGE_FILE).map_err(FileError::of("reading", IMAGE_FILE))?;
    serde_json::from_slice(&text).map_err(|source| BootError::Image { source })
}
