//! The limits on proxied connections: per sandbox, per sandbox while undecided, and over all sandboxes.

use nix::sys::resource::{Resource, getrlimit};

// A sixteenth of what all sandboxes share (`MAX_OVERALL`).
/// Proxied connections of one sandbox.
pub(crate) const MAX_PER_SANDBOX: usize = 1024;
// Silent connections cost a permit for ten seconds each; this many of them leave the rest to connections that work.
/// Connections of one sandbox that are not decided yet.
pub(crate) const MAX_UNDECIDED: usize = 256;
/// Proxied connections of all sandboxes.
const MAX_OVERALL: usize = 16 * 1024;

/// Returns how many connections all sandboxes may have: a quarter of the descriptors that this process may open, and
/// never more than `MAX_OVERALL`.
pub(crate) fn max_overall() -> usize {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    // Each connection takes two descriptors, so half of them remain for the gateway, the database and the VMMs.
    usize::try_from(descriptors / 4).unwrap_or(MAX_OVERALL).min(MAX_OVERALL)
}
