//! A client of Firecracker's API: HTTP/1.1 over a Unix socket, a connection for every request.
//!
//! The other end is a process that a guest may have taken over: answers are bounded and every request has a deadline.

use super::types::Fault;
use crate::error::{VmmError, plain};
use crate::socket::SocketPath;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::UnixStream;

/// The longest answer that is read, in bytes; real ones have a few hundred.
const ANSWER_MAX: usize = 64 * 1024;
/// Bounds requests that change a setting or a state.
const DEADLINE: Duration = Duration::from_secs(20);
/// Bounds requests that read or write a machine's memory: 8 GiB on a slow, busy disk.
const MEMORY_DEADLINE: Duration = Duration::from_secs(180);

/// A client of one Firecracker's API.
#[derive(Debug)]
pub(super) struct Api {
    socket: SocketPath,
    /// Set while a request runs during which Firecracker answers no other.
    busy: AtomicBool,
}

impl Api {
    pub fn new(socket: SocketPath) -> Self {
        Self { socket, busy: AtomicBool::new(false) }
    }

    /// Whether Firecracker accepts connections yet.
    pub async fn is_up(&self) -> bool {
        UnixStream::connect(self.socket.path()).await.is_ok()
    }

    pub async fn put(&self, path: &str, body: &impl Serialize) -> Result<(), VmmError> {
        self.change(Method::PUT, path, body, DEADLINE).await
    }

    /// Sends a PUT that reads or writes guest memory, and so takes longer the larger that is.
    pub async fn put_memory(&self, path: &str, body: &impl Serialize) -> Result<(), VmmError> {
        // Firecracker works on one request at a time. Without the flag the watchdog's question would wait behind this
        // one, and a slow disk would look like a hung VMM, which is killed.
        self.busy.store(true, Ordering::Relaxed);
        let done = self.change(Method::PUT, path, body, MEMORY_DEADLINE).await;
        self.busy.store(false, Ordering::Relaxed);
        done
    }

    pub async fn patch(&self, path: &str, body: &impl Serialize) -> Result<(), VmmError> {
        self.change(Method::PATCH, path, body, DEADLINE).await
    }

    /// The watchdog's question: whether Firecracker answers, or is busy with a request whose own deadline bounds it.
    pub async fn is_alive(&self) -> bool {
        self.busy.load(Ordering::Relaxed) || self.ping().await.is_ok()
    }

    /// An error unless Firecracker answers `GET /`.
    pub async fn ping(&self) -> Result<(), VmmError> {
        let command = "GET /";
        let (status, body) = self.send(command, Method::GET, "/", Bytes::new(), DEADLINE).await?;
        refused(command, status, &body)
    }

    async fn change(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        deadline: Duration,
    ) -> Result<(), VmmError> {
        let command = format!("{method} {path}");
        let body = serde_json::to_vec(body)
            .map_err(|e| VmmError::Protocol { command: command.clone(), message: e.to_string() })?;
        let (status, answer) = self.send(&command, method, path, body.into(), deadline).await?;
        refused(&command, status, &answer)
    }

    async fn send(
        &self,
        command: &str,
        method: Method,
        path: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<(StatusCode, Bytes), VmmError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| protocol(command, e))?;
        match tokio::time::timeout(deadline, self.exchange(command, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(VmmError::Hung { command: command.to_owned(), seconds: deadline.as_secs() }),
        }
    }

    async fn exchange(&self, command: &str, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), VmmError> {
        let connecting = UnixStream::connect(self.socket.path()).await;
        let stream = connecting
            .map_err(|source: io::Error| VmmError::System { step: "connecting to Firecracker's API", source })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| protocol(command, e))?;
        let exchange = async {
            let answer: Response<_> = sender.send_request(request).await.map_err(|e| protocol(command, e))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(|e| VmmError::Protocol { command: command.to_owned(), message: e.to_string() })?;
            Ok((status, body.to_bytes()))
        };
        tokio::pin!(exchange);
        // Polling the connection is what moves the bytes. It ends before the exchange only when Firecracker hangs up,
        // and the exchange then returns the better error.
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            _ = connection => exchange.await,
        }
    }
}

fn protocol(command: &str, error: impl std::fmt::Display) -> VmmError {
    VmmError::Protocol { command: command.to_owned(), message: error.to_string() }
}

/// An error with Firecracker's message unless the request has succeeded.
fn refused(command: &str, status: StatusCode, body: &[u8]) -> Result<(), VmmError> {
    if status.is_success() {
        return Ok(());
    }
    let message = match serde_json::from_slice::<Fault>(body) {
        // Cut to one short line: a guest that has taken over its VMM writes this text into our log.
        Ok(fault) => plain(&fault.fault_message),
        Err(_) => format!("status {status}"),
    };
    Err(VmmError::Refused { command: command.to_owned(), message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    const SOCKET: &str = "api.sock";

    /// An API that gives `answer` to one request, whatever it is.
    fn answering(answer: Vec<u8>) -> (tempfile::TempDir, Api) {
        let dir = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(dir.path().join(SOCKET)).expect("bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.expect("a request");
            let _ = stream.write_all(&answer).await;
        });
        let api = Api::new(SocketPath::new(dir.path(), SOCKET).expect("a path"));
        (dir, api)
    }

    #[tokio::test]
    async fn a_refusal_tells_the_request_and_the_reason() {
        let fault = r#"{"fault_message":"the vCPUs are missing"}"#;
        let answer = format!("HTTP/1.1 400 \r\nContent-Length: {}\r\n\r\n{fault}", fault.len());
        let (_dir, api) = answering(answer.into_bytes());
        let error = api.put("/machine-config", &json!({})).await.expect_err("refused").to_string();
        assert!(error.contains("PUT /machine-config") && error.contains("the vCPUs are missing"), "{error}");
    }

    #[tokio::test]
    async fn case_07_an_endless_answer_is_an_error() {
        let mut flood = b"HTTP/1.1 200 \r\nContent-Length: 1000000\r\n\r\n".to_vec();
        flood.extend(vec![b'x'; 1_000_000]);
        let (_dir, api) = answering(flood);
        assert!(matches!(api.ping().await, Err(VmmError::Protocol { .. })));
    }

    #[tokio::test]
    async fn case_07_a_connection_that_ends_early_is_an_error() {
        let (_dir, api) = answering(b"HTTP/1.1 204".to_vec());
        assert!(matches!(api.put("/vm", &json!({})).await, Err(VmmError::Protocol { .. })));
    }
}
