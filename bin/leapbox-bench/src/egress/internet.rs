//! The servers out there, in one process and one thread: the role `egress internet`.

use super::world::{ANSWER_PORTS, HTTPS_PORT, NAME_SERVER, SERVER, STREAM_PORT};
use crate::process::single_threaded;
use crate::scratch::Scratch;
use crate::web;
use anyhow::{Context, Result};
use leapbox_errors::chain;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;

/// What a ClientHello is answered, in bytes.
pub(super) const ANSWER: usize = 128;
/// A TLS record's header: type, version, length (RFC 8446 §5.1).
const RECORD_HEADER: usize = 5;

/// Serves until standard input ends. Says `ready` on standard output once all of them listen.
pub(super) fn serve(scratch: &Scratch) -> Result<()> {
    let acceptor = acceptor(scratch).context("setting up the servers' TLS")?;
    single_threaded()?.block_on(async {
        let bind = async |port| TcpListener::bind((SERVER, port)).await.context("binding a server's port");
        let (streams, https) = (bind(STREAM_PORT).await?, bind(HTTPS_PORT).await?);
        for port in ANSWER_PORTS {
            tokio::spawn(accept(bind(port).await?, answer));
        }
        let names = UdpSocket::bind((NAME_SERVER, 53)).await.context("binding the name server's port")?;
        tokio::spawn(name_server(names));
        tokio::spawn(accept(streams, stream));
        tokio::spawn(accept(https, move |socket| https_server(acceptor.clone(), socket)));
        println!("ready");
        let mut rest = Vec::new();
        tokio::io::stdin().read_to_end(&mut rest).await.map(drop).context("waiting for the run's end")
    })
}

async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => return tracing::error!(error = %chain(&error), "a server of the bench cannot accept"),
        };
        let serving = socket.set_nodelay(true).map(|()| serve(socket));
        tokio::spawn(async move {
            // Loads hang up when their time is over.
            if let Ok(serving) = serving
                && let Err(error) = serving.await
            {
                tracing::debug!(error = %chain(&error), "a connection broke off");
            }
        });
    }
}

/// Reads one whole TLS record, which is a ClientHello.
async fn read_hello(socket: &mut TcpStream) -> std::io::Result<()> {
    let mut header = [0; RECORD_HEADER];
    socket.read_exact(&mut header).await?;
    let length = u16::from_be_bytes([header[3], header[4]]);
    let mut record = vec![0; usize::from(length)];
    socket.read_exact(&mut record).await.map(|_| ())
}

/// Answers once and hangs up first: who does keeps the port for a minute, and there is only one of this server's.
async fn answer(mut socket: TcpStream) -> std::io::Result<()> {
    read_hello(&mut socket).await?;
    socket.write_all(&[b'x'; ANSWER]).await?;
    socket.shutdown().await?;
    socket.read(&mut [0; 1]).await.map(|_| ())
}

async fn stream(mut socket: TcpStream) -> std::io::Result<()> {
    read_hello(&mut socket).await?;
    loop {
        socket.write_all(&web::BYTES).await?;
    }
}

fn acceptor(scratch: &Scratch) -> Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_file(scratch.certificate())?;
    let key = PrivateKeyDer::from_pem_file(scratch.key())?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn https_server(acceptor: TlsAcceptor, socket: TcpStream) -> std::io::Result<()> {
    web::serve(acceptor.accept(socket).await?).await.map_err(std::io::Error::other)
}

/// Every name is the server's.
async fn name_server(socket: UdpSocket) {
    let mut query = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut query).await {
        if let Some(answer) = address_of(&query[..length])
            && let Err(error) = socket.send_to(&answer, from).await
        {
            tracing::warn!(error = %chain(&error), "the bench's name server could not answer");
        }
    }
}

/// An answer to a query for one A record (RFC 1035 §4).
fn address_of(query: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    let question = query.get(HEADER..HEADER + name + 5)?;
    let mut answer = query.get(..2)?.to_vec();
    // A response, recursion desired and available; one question, one answer.
    answer.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend(question);
    // The question's name, type A, class IN, five minutes, four bytes.
    answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 1, 0x2c, 0, 4]);
    answer.extend(SERVER.octets());
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_answered_with_the_servers_address() {
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05bench\x07example\x00\x00\x01\x00\x01";
        let answer = address_of(query).expect("an answer");
        assert_eq!(answer[..4], [0x12, 0x34, 0x81, 0x80]);
        assert_eq!(answer[12..31], query[12..]);
        assert_eq!(answer[answer.len() - 4..], SERVER.octets());
        assert_eq!(address_of(&query[..20]), None);
    }
}
