//! Boots the guest: from the kernel's first process to a guest that answers calls.
//!
//! ```text
//! boot_diskless: /dev /proc /sys → modules → channel NIC into a network namespace of its own → listener there
//!            ┄┄ `diskless` answers, and a base snapshot may be taken: no disk has been opened ┄┄► `Mount`
//! mount:     disks by superblock → EROFS ro + ext4 rw → overlay → switch root
//!            → /proc /sys /dev … → cgroups, limits → /etc → eth0 and loopback → identity, trust → Guest
//! ```
//!
//! Everything happens once, on the main thread, before any other process exists. A failure ends PID 1 and with it the
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

/// The file of the root file system that holds its [`ImageConfig`]; set-up writes it into every template.
const IMAGE_FILE: &str = "/.leapbox/image.json";
/// Directory of the initramfs for the agent's own files. It is in memory, and out of reach of every path once the root
/// is switched.
const HIDDEN: &str = "/hidden";

/// A step of booting that failed. It is printed on the console, or answered to `Mount`.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A path could not be made, read, written or mounted.
    #[error(transparent)]
    File(#[from] FileError),
    /// Fewer virtio disks appeared than every guest has.
    #[error("only {found} of {expected} virtio disks appeared")]
    FewDisks { found: usize, expected: usize },
    /// Both disks are there, but one of them holds neither of the wanted file systems.
    #[error("no disk has an {filesystem} file system")]
    NoDisk { filesystem: &'static str },
    /// The image's configuration is not the JSON of an [`ImageConfig`].
    #[error("{IMAGE_FILE} is not a valid image configuration")]
    Image {
        #[source]
        source: serde_json::Error,
    },
    /// The machine lacks one of its two network cards, which are told apart by their MAC addresses.
    #[error("no network card has the MAC address {mac}")]
    NoCard { mac: String },
    /// A network card could not be set up. `step` is a participle that goes before the card's name.
    #[error("{step} {interface}")]
    Network {
        step: &'static str,
        interface: String,
        #[source]
        source: std::io::Error,
    },
}

impl BootError {
    /// Makes a closure for `map_err` that adds the step and the card to a system error.
    fn network<E: Into<std::io::Error>>(step: &'static str, interface: &str) -> impl FnOnce(E) -> Self {
        let interface = interface.to_owned();
        move |source| BootError::Network { step, interface, source: source.into() }
    }
}

/// Boots as far as a guest gets without opening a disk. The listener is the agent's port on the guest channel.
pub fn boot_diskless() -> Result<TcpListener, Box<dyn Error>> {
    root::mount_initramfs()?;
    // As early as /proc allows, so that no later step of booting can be picked by the out-of-memory killer.
    limits::protect_agent();
    modules::load_all()?;
    // A base snapshot may be taken as soon as the listener answers, and every clone of it has both disks.
    disks::wait_for_devices()?;
    Ok(channel::listen()?)
}

/// Does the rest of the boot, with the disks that the machine has now: in a clone of a base snapshot the writable one
/// is another than before.
pub fn mount() -> Result<Arc<Guest>, Box<dyn Error>> {
    let disks = disks::find()?;
    root::assemble(&disks)?;
    // Opened before the root is switched, because no path leads there afterwards.
    fs::create_dir_all(HIDDEN).map_err(FileError::of("making", HIDDEN))?;
    let hidden = fs::File::open(HIDDEN).map_err(FileError::of("opening", HIDDEN))?;
    root::switch()?;
    root::mount_guest()?;
    limits::apply()?;
    let cgroups = limits::make_cgroups()?;
    let image = read_image()?;
    etc::write()?;
    workload_net::set_up()?;
    // The kernel's link for an open descriptor is a path that still leads to it; new files can be made below it.
    let hidden = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&hidden)));
    let identity = IdentityFiles::install(&hidden, Path::new("/etc"), Path::new(BOOT_ID_PATH))?;
    let trust = TrustStore::install(Path::new("/"), &hidden, Path::new(trust::FOLDER))?;
    // An image may run its processes as a uid that has no line in /etc/passwd.
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
