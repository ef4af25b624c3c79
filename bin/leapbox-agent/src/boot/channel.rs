//! The guest channel: a network card in a namespace of its own.
//!
//! The namespace has no name and, after this, no process: the listening socket alone keeps it alive. Whatever the
//! workload does to its own network, to firewalls or routes, doesn't reach it.

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

/// Moves the channel's card out of the workload's sight and listens on the agent's port behind it.
pub(super) fn listen() -> Result<TcpListener, BootError> {
    let card = by_mac(net::CHANNEL_GUEST_MAC)?;
    let index = if_nametoindex(card.as_str()).map_err(BootError::network("finding", &card))?;
    let (namespaces, namespace) = mpsc::channel();
    let (moved, is_moved) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let inside = scope.spawn({
            let card = &card;
            move || {
                let opened = new_namespace(card);
                let ready = opened.is_ok();
                // Fails only if the other side has given up, which it then reports itself.
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
        drop(moved);
        let listener = inside.join().unwrap_or(Ok(None));
        outcome?;
        listener?.ok_or_else(gone)
    })
}

/// Gives the calling thread a network namespace of its own.
fn new_namespace(card: &str) -> Result<File, BootError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(BootError::network("making a namespace for", card))?;
    Ok(File::open("/proc/thread-self/ns/net").map_err(FileError::of("opening", "/proc/thread-self/ns/net"))?)
}

fn listen_inside(card: &str) -> Result<TcpListener, BootError> {
    let channel = Interface::new(card)?;
    channel.disable_ipv6()?;
    channel.set_address(net::CHANNEL_GUEST, net::CHANNEL_PREFIX)?;
    channel.set_up()?;
    channel.set_neighbour(net::CHANNEL_HOST, net::CHANNEL_HOST_MAC)?;
    TcpListener::bind((net::CHANNEL_GUEST, net::AGENT_PORT)).map_err(BootError::network("listening on", card))
}
