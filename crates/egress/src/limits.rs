//! How many connections there may be: per sandbox, per sandbox without a decision, and over all sandboxes.

use nix::sys::resource::{Resource, getrlimit};

/// Proxied connections of one sandbox.
pub(crate) const OF_A_SANDBOX: usize = 1024;
/// Those of them whose destination is not decided yet.
pub(crate) const UNDECIDED: usize = 256;
/// Proxied connections of all sandboxes: each is two of the server's descriptors.
const OF_ALL: usize = 16 * 1024;

/// All places there are: a quarter of the descriptors this process may have, and the limit above.
pub(crate) fn of_all() -> usize {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(descriptors / 4).unwrap_or(OF_ALL).min(OF_ALL)
}
