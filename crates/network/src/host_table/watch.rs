//! The task that notices when another program has removed something of the host-wide table, and puts it back.

use super::{Guard, Listing, expected};
use crate::error::NetworkError;
use crate::plan::table_name;
use crate::prepare::blocking;
use crate::shared::Shared;
use leapbox_errors::chain;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

/// `NFNLGRP_NFTABLES`, the multicast group to which the kernel reports every change of a namespace's nftables.
const EVENTS: u32 = 7;
// The table is looked at this often without an event as well, in case one was lost.
const FALLBACK: Duration = Duration::from_secs(10);
// Programs change rules in several transactions. The look comes after the last one of a burst.
const SETTLE: Duration = Duration::from_millis(100);
// At most one look in this time, however many events arrive: a look starts `nft`, which takes some 10 ms. The time
// grows by itself with each restoration in a row, up to the second value, so that two programs that undo each other's
// work do not take a core.
const PACE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
// Messages that are thrown away at a time: a program may change rules faster than they are read.
const MOST_EVENTS: usize = 4096;

/// Watches the table until dropped, and keeps the guard. Our own changes are events too: what counts is the state that
/// a look finds.
pub(crate) async fn watch(shared: Arc<Shared>, expected: Listing, mut guard: Option<Guard>) {
    let events = Events::open().inspect_err(|error| {
        tracing::warn!(error = %chain(error), "no events of nftables: removed rules are noticed after 10 s only");
    });
    // The first look waits for no event: one may have come before there was a socket for it.
    let (mut expected, mut pause, mut wait) = (Arc::new(expected), PACE.0, Duration::ZERO);
    loop {
        sleep(pause).await;
        change_within(events.as_ref().ok(), wait).await;
        let longer = (pause + PACE.0).min(PACE.1);
        (pause, wait) = match look(&shared, &mut expected).await {
            Ok(false) => (PACE.0, FALLBACK),
            Ok(true) => {
                report(&shared, guard.is_some());
                (longer, FALLBACK)
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "the host-wide nftables table cannot be looked at or restored");
                // Tried again without an event: nothing has changed that would be one.
                (longer, Duration::ZERO)
            }
        };
        // One that could not be made at the start, for lack of memory for example.
        if guard.is_none() {
            guard = Guard::set(&shared.config.instance).ok();
        }
    }
}

/// Waits for a change of the namespace's rules and for the end of its burst, or for this time.
async fn change_within(events: Option<&Events>, wait: Duration) {
    let Some(events) = events else { return sleep(wait).await };
    // Without an event in this time the table is looked at as well.
    let _ = timeout(wait, events.changed()).await;
    sleep(SETTLE).await;
    events.discard();
}

/// Restores the table if something is missing, and returns whether it has.
async fn look(shared: &Arc<Shared>, known: &mut Arc<Listing>) -> Result<bool, NetworkError> {
    let (looking, listing) = (shared.clone(), known.clone());
    if !blocking(move || looking.host_table_lacks(&listing)).await? {
        return Ok(false);
    }
    // Read again first: an nft that was updated meanwhile may list the same table in other words.
    *known = Arc::new(expected(&shared.config).await?);
    let (restoring, listing) = (shared.clone(), known.clone());
    blocking(move || restoring.restore_host_table(&listing)).await
}

fn report(shared: &Shared, guarded: bool) {
    shared.host_rules_restored.fetch_add(1, Ordering::Relaxed);
    tracing::warn!(
        event = "host_rules_restored",
        table = %table_name(&shared.config.instance),
        // Without the guard, sandboxes could reach the host and closed addresses for that moment.
        closed_meanwhile = guarded,
        "another program had removed rules that isolate sandboxes, as `nft flush ruleset` does; they are in force \
         again. Let that program remove its own tables only: in /etc/nftables.conf, replace `flush ruleset`"
    );
}

/// The kernel's events of the namespace in which it was opened.
struct Events(AsyncFd<OwnedFd>);

impl Events {
    #[allow(unsafe_code)]
    fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 1 << (EVENTS - 1)))?;
        // SAFETY: the descriptor is owned by the AsyncFd and stays open, and the same, as long as that lives.
        let events = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(events.map_err(io::Error::from)?))
    }

    /// Waits for an event.
    async fn changed(&self) {
        // What it says is not needed, so the rest of the message may be cut off. An error means that events were lost
        // (ENOBUFS), so there were some.
        let mut beginning = [0; 64];
        let read =
            self.0.async_io(Interest::READABLE, |fd| Ok(recv(fd.as_raw_fd(), &mut beginning, MsgFlags::MSG_DONTWAIT)?));
        let _ = read.await;
    }

    /// Throws away the events that have arrived.
    fn discard(&self) {
        let mut beginning = [0; 64];
        let fd = self.0.get_ref().as_raw_fd();
        for _ in 0..MOST_EVENTS {
            if recv(fd, &mut beginning, MsgFlags::MSG_DONTWAIT).is_err() {
                return;
            }
        }
    }
}
