//! Serves queries over TCP: few connections, one query at a time on each, and a deadline on every read and write.

use super::Counters;
use super::answer::Transport;
use super::limits::{MAX_QUERY, TCP_DEADLINE};
use super::slot::SlotNameServer;
use leapbox_errors::chain;
use std::io;
use std::num::TryFromIntError;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub(super) async fn serve(name_server: Arc<SlotNameServer>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "a slot's name server cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Closed with a reset, so that no lingering socket keeps the namespace of a slot. The server closes only
        // connections that are idle, over a limit, or ended by the guest.
        if let Err(error) = stream.set_zero_linger() {
            tracing::debug!(error = %chain(&error), "a connection to a slot's name server could not be set up");
            continue;
        }
        // Finished tasks are collected here, or the set would grow with every connection.
        while connections.try_join_next().is_some() {}
        let Ok(permit) = name_server.limits.connections.clone().try_acquire_owned() else {
            Counters::count(&name_server.shared.counters.dropped);
            continue;
        };
        let name_server = name_server.clone();
        connections.spawn(async move {
            if let Err(error) = serve_connection(&name_server, stream).await {
                tracing::trace!(error = %chain(&error), "a DNS connection of a slot ended");
            }
            drop(permit);
        });
    }
}

async fn serve_connection(name_server: &SlotNameServer, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let query = timeout(TCP_DEADLINE, read_message(&mut stream)).await??;
        let permit = name_server.limits.queries.clone().try_acquire_owned();
        let (true, Ok(_permit)) = (name_server.limits.within_rate() && name_server.within_share(), permit) else {
            Counters::count(&name_server.shared.counters.dropped);
            return Ok(());
        };
        let Some(answer) = name_server.answer(&query, Transport::Tcp).await else { return Ok(()) };
        timeout(TCP_DEADLINE, write_message(&mut stream, &answer)).await??;
    }
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUERY {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "query too long"));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let too_long = |_: TryFromIntError| io::Error::new(io::ErrorKind::InvalidData, "answer too long");
    let length = u16::try_from(message.len()).map_err(too_long)?;
    // One write, so that length and message travel in one segment (RFC 7766, 8).
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
