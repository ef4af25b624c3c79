//! Queries over UDP: what is beyond the slot's limits is dropped unread.

use super::Counters;
use super::answer::Transport;
use super::limits::MAX_QUERY;
use super::slot::SlotNames;
use leapbox_errors::chain;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

pub(super) async fn serve(names: Arc<SlotNames>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut queries = JoinSet::new();
    // One byte more than allowed shows a query that is too long.
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
        let permit = names.limits.queries.clone().try_acquire_owned();
        let (true, true, Ok(permit)) =
            (length <= MAX_QUERY, names.limits.within_rate() && names.within_share(), permit)
        else {
            Counters::count(&names.shared.counters.dropped);
            continue;
        };
        let (names, socket, query) = (names.clone(), socket.clone(), buffer[..length].to_vec());
        queries.spawn(async move {
            reply(&names, &socket, &query, peer).await;
            drop(permit);
        });
    }
}

async fn reply(names: &SlotNames, socket: &UdpSocket, query: &[u8], peer: SocketAddr) {
    let Some(answer) = names.answer(query, Transport::Udp).await else { return };
    if let Err(error) = socket.send_to(&answer, peer).await {
        tracing::debug!(error = %chain(&error), "a slot's name server cannot send");
    }
}
