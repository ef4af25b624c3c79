//! The agent inside every guest: PID 1, and the host's only way in.
//!
//! ```text
//! main ─ boot ──▶ modules ─▶ listener in the channel's own network namespace
//!      ├─ bare ──▶ the main thread, until the host says `Mount` ─▶ boot: disks, overlay root, network, cgroups ─▶ Guest
//!      ├─ server ──▶ worker threads, each: accept → connection → { configure | exec | files | relay }
//!      └─ reaper ──▶ the main thread, for ever: adopts and buries what the workload leaves behind
//! ```
//!
//! A library besides the binary, so that everything after boot is tested on an ordinary machine through the real
//! client. Plain threads and blocking calls: under emulation every system call and page fault costs ten times as much,
//! and an agent that waits in `accept` costs nothing.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("the guest agent starts processes with Linux system calls written for x86-64");

pub mod bare;
pub mod boot;
pub mod budget;
mod call;
pub mod cgroup;
pub mod configure;
mod connection;
mod exec;
mod fault;
mod files;
pub mod guest;
pub mod log;
mod long;
mod names;
mod phase;
pub mod reaper;
mod relay;
pub mod server;
pub mod trust;
pub mod user;
pub mod workload;
