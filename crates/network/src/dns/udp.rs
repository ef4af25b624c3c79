//! Serves queries over UDP. Queries beyond the slot's limits are dropped before they are parsed.

use super::Counters;
use super::answer::Transport;
use super::limits::MAX_QUERY;
use super::slot::SlotNameServer;
use leapbox_errors::chain;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

pub(super) async fn serve(name_server: Arc<SlotNameServer>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut queries = JoinSet::new();
    // One byte more than allowed: `recv_from` cuts a longer datagram without saying so.
    let mut buffer = vec![0; MAX_QUERY + 1];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "a slot's name server cannot receive");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        while queries.try_join_next().is_some() {}
        // Dropped and not answered: an answer would cost as much as the query, and a client asks again after a pause.
        let permit = name_server.limits.queries.clone().try_acquire_owned();
        let (true, true, Ok(permit)) =
            (length <= MAX_QUERY, name_server.limits.within_rate() && name_server.within_share(), permit)
        else {
            Counters::count(&name_server.shared.counters.dropped);
            continue;
        };
        let (name_server, socket, query) = (name_server.clone(), socket.clone(), buffer[..length].to_vec());
        queries.spawn(async move {
            reply(&name_server, &socket, &query, peer).await;
            drop(permit);
        });
    }
}

async fn reply(name_server: &SlotNameServer, socket: &UdpSocket, query: &[u8], peer: SocketAddr) {
    let Some(answer) = name_server.answer(query, Transport::Udp).await else { return };
    if let Err(error) = socket.send_to(&answer, peer).await {
        tracing::debug!(error = %chain(&error), "a slot's name server cannot send");
    }
}
