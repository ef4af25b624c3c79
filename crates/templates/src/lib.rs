//! Templates: the kernel, initramfs and root file systems that sandboxes boot, and how set-up builds them.
//!
//! ```text
//! host_packages ─► kernel ─────► initramfs ─► rootfs        (`leapbox setup`, under the ArtifactBuilder's lock)
//!                  vmlinux,      agent and    EROFS image
//!                  modules       modules      per template
//!                        └───────────┴───────────┴─► artifacts/current.json ─► Artifacts ─► GuestImage
//! ```
//!
//! An artifact is immutable and lies in a directory named by its content; `current.json` says which ones are in use.
//! `leapbox setup` builds through [`ArtifactBuilder`]; the server and `leapbox doctor` read through [`Artifacts`]. The
//! server also exports guest images to archives and imports them from there (`artifacts/export.rs`).
#![forbid(unsafe_code)]

mod artifacts;
mod debian_archive;
mod error;
pub mod host_command;
pub mod host_packages;
mod initramfs;
mod kernel;
mod progress;
mod rootfs;

pub use artifacts::{ArtifactBuilder, Artifacts, KernelArtifact, Manifest, SYSTEM_DEBIAN, StoredArtifact};
pub use error::ArtifactError;
pub use initramfs::{ensure_initramfs, initramfs_is_current};
pub use kernel::{KernelRefresh, ensure_kernel};
pub use leapbox_guest_protocol::ImageConfig;
pub use progress::{Progress, Step};
pub use rootfs::{Recipe, ensure_rootfs, system_debian};
