//! Counters of the gateway. Whoever renders metrics takes a [`Stats`] snapshot.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of the gateway's counters. All are totals since start, except those that say "now".
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The live counters of one thread.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            /// Adds these to `stats`.
            pub(crate) fn add_to(&self, stats: &mut Stats) {
                // What is counted up by one thread may be counted down by another.
                $(stats.$name = stats.$name.wrapping_add(self.$name.load(Ordering::Relaxed));)*
            }
        }
    };
}

counters! {
    /// Client connections taken.
    connections,
    /// Client connections and tunnels open now.
    connections_open,
    /// Client connections turned away because too many were open.
    connections_refused,
    /// TLS handshakes that failed or took too long.
    handshakes_failed,
    /// Connections cut because nothing moved on them.
    connections_stalled,
    /// Requests for the control plane.
    requests_control,
    /// Requests for sandboxes.
    requests_sandbox,
    /// Our own answers with a 4xx status.
    refused_4xx,
    /// Our own answers with a 5xx status.
    failed_5xx,
    /// Connections opened into sandboxes.
    upstream_opened,
    /// Requests that went over a connection kept from before.
    upstream_reused,
    /// Requests sent a second time because a kept connection turned out dead.
    upstream_retried,
    /// WebSocket tunnels begun.
    tunnels,
    /// Tunnels closed because they were idle.
    tunnels_idle,
    /// Body and tunnel bytes towards sandboxes.
    bytes_to_sandboxes,
    /// Body and tunnel bytes from sandboxes.
    bytes_from_sandboxes,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Ordering::Relaxed);
}
