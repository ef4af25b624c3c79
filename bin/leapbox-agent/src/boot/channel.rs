//! Sets up the guest channel: the network card over which the host talks to the agent, in a namespace of its own.
//!
//! ```text
//! main thread    find the card ─ spawn ┐                        ┌▶ move the card ┐                       ┌▶ listener
//! second thread                        └▶ unshare, open /proc/… ┘                └▶ address, up, listen ─┘
//! ```
//!
//! The namespace has no name and, after this, no process in it: the listening socket alone keeps it alive. Whatever
//! the workload does to its own network, firewalls or routes does not reach it, so the host can always call the agent.

use super::BootError;
use super::interface::{Interface, by_mac};
use super::netlink::move_to_namespace;
use leapbox_errors::FileError;
use leapbox_guest_protocol::net;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::mpsc::{self, RecvError};
use std::thread;

/// Moves the channel's card into a new network namespace and listens there on the agent's port.
pub(super) fn listen() -> Result<TcpListener, BootError> {
    // By address, because the kernel numbers cards in the order it finds them.
    let card = by_mac(net::CHANNEL_GUEST_MAC)?;
    let index = if_nametoindex(card.as_str()).map_err(BootError::network("finding", &card))?;
    let (namespaces, namespace) = mpsc::channel();
    let (moved, is_moved) = mpsc::channel::<()>();
    thread::scope(|scope| {
        // A network namespace belongs to a thread. Only this short-lived one enters the new namespace, so the main
        // thread and all that it starts later stay in the workload's; a socket stays in the one it was made in.
        let inside = scope.spawn({
            let card = &card;
            move || {
                let opened = new_namespace(card);
                let ready = opened.is_ok();
                // Sending fails only if the main thread has returned early, and then that error is the one reported.
                let _ = namespaces.send(opened);
                if ready && is_moved.recv().is_ok() { listen_inside(card).map(Some) } else { Ok(None) }
            }
        });
        let gone = || BootError::Network {
            step: "waiting for the namespace of",
            interface: card.clone(),
            source: std::io::Error::from(std::io::ErrorKind::BrokenPipe),
        };
        let namespace = namespace.recv().map_err(|_: RecvError| gone())??;
        let outcome = move_to_namespace(index, namespace.as_fd()).map_err(BootError::network("moving", &card));
        if outcome.is_ok() {
            let _ = moved.send(());
        }
        // Dropped before the join: after a failed move the thread would otherwise wait for the message for ever.
        drop(moved);
        let listener = inside.join().unwrap_or(Ok(None));
        outcome?;
        listener?.ok_or_else(gone)
    })
}

/// Puts the calling thread into a new network namespace and opens it.
fn new_namespace(card: &str) -> Result<File, BootError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(BootError::network("making a namespace for", card))?;
    Ok(File::open("/proc/thread-self/ns/net").map_err(FileError::of("opening", "/proc/thread-self/ns/net"))?)
}

fn listen_inside(card: &str) -> Result<TcpListener, BootError> {
    let channel = Interface::new(card)?;
    channel.disable_ipv6()?;
    channel.set_address(net::CHANNEL_GUEST, net::CHANNEL_PREFIX)?;
    channel.set_up()?;
    // The host's address is fixed, so neither side depends on ARP: no first call waits for an answer to it.
    channel.set_neighbour(net::CHANNEL_HOST, net::CHANNEL_HOST_MAC)?;
    TcpListener::bind((net::CHANNEL_GUEST, net::AGENT_PORT)).map_err(BootError::network("listening on", card))
}
