//! The size of a machine. Whether a driver can make one of it is checked in `spec`.

use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// The size of a machine: one warm snapshot per template and shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    /// Virtual CPUs, 1 to 8.
    pub vcpus: u8,
    /// Memory in MiB, 512 to 8192.
    pub memory_mib: u32,
}

/// Virtual CPUs a machine can have (contract: `vcpu`).
pub(crate) const VCPUS: RangeInclusive<u8> = 1..=8;
/// Memory a machine can have, in MiB (contract: `memory_mib`).
pub(crate) const MEMORY_MIB: RangeInclusive<u32> = 512..=8192;

impl Shape {
    /// Guest RAM in bytes.
    pub fn memory_bytes(self) -> u64 {
        u64::from(self.memory_mib) << 20
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}MiB", self.vcpus, self.memory_mib)
    }
}
