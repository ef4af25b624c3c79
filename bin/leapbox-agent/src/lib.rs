//! The agent that runs as PID 1 inside every guest and is the host's only way into it.
//!
//! ```text
//! main ─ boot ─────▶ modules ─▶ listener in the guest channel's own network namespace
//!      ├─ diskless ▶ the main thread, until the host sends `Mount` ─▶ boot: disks, overlay root, network ─▶ Guest
//!      ├─ server ──▶ worker threads, each: accept → connection → { configure | exec | files | relay }
//!      └─ reaper ──▶ the main thread, for ever: adopts and reaps the processes that the workload orphans
//! ```
//!
//! The agent is a library besides its binary, so that everything after boot is tested on an ordinary machine through
//! the real client. It uses plain threads and blocking calls instead of an async runtime: under emulation every system
//! call and page fault costs ten times as much as on the host, and a thread that waits in `accept` costs nothing.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("the guest agent starts processes with Linux system calls written for x86-64");

pub mod boot;
pub mod budget;
mod call;
pub mod cgroup;
pub mod configure;
mod connection;
pub mod diskless;
mod exec;
mod fault;
mod files;
pub mod guest;
pub mod log;
mod long_lived;
mod names;
mod phase;
pub mod reaper;
mod relay;
pub mod server;
pub mod trust;
pub mod user;
pub mod workload;
