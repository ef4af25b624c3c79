//! The size of a machine. `spec` checks whether the drivers support it.

use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// The size of a machine. A snapshot cannot be restored in another size, so every template has a base for each shape in
/// use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shape {
    /// Virtual CPUs, 1 to 8.
    pub vcpus: u8,
    /// Memory in MiB, 512 to 8192 and even.
    pub memory_mib: u32,
}

/// The numbers of virtual CPUs that a machine can have (the API's `vcpu`).
pub(crate) const VCPUS: RangeInclusive<u8> = 1..=8;
/// The sizes of memory that a machine can have, in MiB (the API's `memory`).
pub(crate) const MEMORY_MIB: RangeInclusive<u32> = 512..=8192;

impl Shape {
    /// The size of the guest's RAM in bytes.
    pub fn memory_bytes(self) -> u64 {
        u64::from(self.memory_mib) << 20
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}MiB", self.vcpus, self.memory_mib)
    }
}
