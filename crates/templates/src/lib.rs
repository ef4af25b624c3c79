//! Templates: what sandboxes are made of, and how set-up builds it.
//!
//! ```text
//! host_packages ─► kernel ─────► initramfs ─► rootfs        (`leapbox setup`, under the Workshop's lock)
//!                  vmlinux,      agent and    EROFS image
//!                  modules       modules      per template
//!                        └───────────┴───────────┴─► artifacts/current.json ─► Artifacts ─► GuestImage
//! ```
//!
//! Everything built is immutable and lies in a folder named by its content; `current.json` says which are in use.
//! `leapbox setup` builds through [`Workshop`]; the server and `leapbox doctor` read through [`Artifacts`].
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

pub use artifacts::{Artifacts, KernelArtifact, Manifest, SYSTEM_DEBIAN, StoredArtifact, Workshop};
pub use error::ArtifactError;
pub use initramfs::{ensure_initramfs, initramfs_is_current};
pub use kernel::{KernelRefresh, ensure_kernel};
pub use leapbox_guest_protocol::ImageConfig;
pub use progress::{Progress, Step};
pub use rootfs::{Recipe, ensure_rootfs, system_debian};
