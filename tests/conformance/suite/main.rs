//! What every VMM driver must do, as tests: one suite, run with each of them.
//!
//! ```text
//! LEAPBOX_CONFORMANCE_DRIVER ─► driver ─► world: network, artifacts, base snapshots; shared by all tests
//!                                           └─► rig: what one test has made, and its removal
//!                                                 └─► vm: a machine, its guest, its disk
//! ```
//!
//! The tests know only the trait `Vmm` and its `Machine`; where drivers may differ they ask `capabilities()`. They need
//! root, and a lab of network namespaces around them. `make conformance` runs them with QEMU, the KVM test host with
//! Firecracker; `settings` says what they want from the environment. No path of the machine they were built on is in
//! the program.

mod data;
mod driver;
mod host;
mod orphan;
mod rig;
mod settings;
mod taken;
mod vm;
mod waiting;
mod world;

mod artifacts;
mod boot;
mod changes;
mod cleanup;
mod clones;
mod crash;
mod disk;
mod limits;
mod network;
mod pause;
mod phases;
mod snapshots;
mod stalled;
mod walls;
