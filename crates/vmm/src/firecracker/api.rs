//! A client of Firecracker's API: HTTP/1.1 over a Unix socket, a connection for every request.
//!
//! The other end is a process that a guest may have taken over: answers are bounded and every request has a deadline.

use super::types::Fault;
use crate::error::{VmmError, plain};
use crate::socket::SocketPath;
use crate::watchdog::Reply;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::Mutex;

/// The longest answer that is read, in bytes; real ones have a few hundred.
const ANSWER_MAX: usize = 64 * 1024;
/// Bounds requests that change a setting or a state.
const DEADLINE: Duration = Duration::from_secs(20);
/// Bounds the wait for requests that read or write a machine's memory: 8 GiB on a slow, busy disk.
const MEMORY_DEADLINE: Duration = Duration::from_secs(180);

/// A client of one Firecracker's API.
#[derive(Debug)]
pub(super) struct Api {
    socket: Arc<SocketPath>,
    /// Held by the task of a request that reads or writes guest memory, until Firecracker has answered it or has hung
    /// up.
    memory_request: Arc<Mutex<()>>,
}

type Answer = (StatusCode, Bytes);

impl Api {
    pub fn new(socket: SocketPath) -> Self {
        Self { socket: Arc::new(socket), memory_request: Arc::default() }
    }

    /// Whether Firecracker accepts connections yet.
    pub async fn is_up(&self) -> bool {
        UnixStream::connect(self.socket.path()).await.is_ok()
    }

    pub async fn put(&self, path: &str, body: &impl Serialize) -> Result<(), VmmError> {
        self.change(Method::PUT, path, body).await
    }

    pub async fn patch(&self, path: &str, body: &impl Serialize) -> Result<(), VmmError> {
        self.change(Method::PATCH, path, body).await
    }

    /// Sends a PUT that reads or writes guest memory, and so takes longer the larger that is. An error of the deadline,
    /// or a dropped future, ends the wait and not the request: Firecracker goes on with it, and the next such request
    /// waits for its end.
    pub async fn put_memory(&self, path: &str, body: &impl Serialize) -> Result<(), VmmError> {
        self.put_memory_within(MEMORY_DEADLINE, path, body).await
    }

    async fn put_memory_within(&self, deadline: Duration, path: &str, body: &impl Serialize) -> Result<(), VmmError> {
        let command = format!("PUT {path}");
        let request = request(&command, Method::PUT, path, to_json(&command, body)?)?;
        let answered = async {
            let turn = Arc::clone(&self.memory_request).lock_owned().await;
            let (socket, named) = (Arc::clone(&self.socket), command.clone());
            // A task of its own, because the turn has to be held for as long as Firecracker works and not for as long
            // as somebody waits: meanwhile it answers nothing else, and its silence means nothing (see `ask`).
            let task = tokio::spawn(async move {
                let answer = exchange(&socket, &named, request).await;
                drop(turn);
                answer
            });
            let done = task.await;
            done.map_err(|error| VmmError::System { step: "waiting for Firecracker's answer", source: error.into() })?
        };
        let (status, answer) = within(deadline, &command, answered).await?;
        refused(&command, status, &answer)
    }

    /// The watchdog's question.
    pub async fn ask(&self) -> Reply {
        // Firecracker works on one request at a time. The question would wait behind one that a slow disk holds up, and
        // its work on that is a sign of life.
        if self.is_working() {
            return Reply::Answered;
        }
        match self.ping().await {
            Ok(()) | Err(VmmError::Refused { .. }) => Reply::Answered,
            // It was given work in the meantime.
            Err(_) if self.is_working() => Reply::Answered,
            // Only Firecracker itself can refuse a connection to its socket. Everything else that keeps this server
            // from one (descriptors, memory, a path, a queue that is full) is the host's.
            Err(VmmError::System { source, .. }) if source.kind() != io::ErrorKind::ConnectionRefused => {
                Reply::NotAsked
            }
            Err(_) => Reply::Silent,
        }
    }

    fn is_working(&self) -> bool {
        self.memory_request.try_lock().is_err()
    }

    /// An error unless Firecracker answers `GET /`.
    pub async fn ping(&self) -> Result<(), VmmError> {
        self.send("GET /", Method::GET, "/", Bytes::new()).await
    }

    async fn change(&self, method: Method, path: &str, body: &impl Serialize) -> Result<(), VmmError> {
        let command = format!("{method} {path}");
        let body = to_json(&command, body)?;
        self.send(&command, method, path, body).await
    }

    async fn send(&self, command: &str, method: Method, path: &str, body: Bytes) -> Result<(), VmmError> {
        let request = request(command, method, path, body)?;
        let (status, answer) = within(DEADLINE, command, exchange(&self.socket, command, request)).await?;
        refused(command, status, &answer)
    }
}

fn to_json(command: &str, body: &impl Serialize) -> Result<Bytes, VmmError> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|e| protocol(command, e))
}

fn request(command: &str, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, VmmError> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|e| protocol(command, e))
}

async fn within(
    deadline: Duration,
    command: &str,
    answer: impl Future<Output = Result<Answer, VmmError>>,
) -> Result<Answer, VmmError> {
    match tokio::time::timeout(deadline, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(VmmError::Hung { command: command.to_owned(), seconds: deadline.as_secs() }),
    }
}

async fn exchange(socket: &SocketPath, command: &str, request: Request<Full<Bytes>>) -> Result<Answer, VmmError> {
    let connecting = UnixStream::connect(socket.path()).await;
    let stream =
        connecting.map_err(|source: io::Error| VmmError::System { step: "connecting to Firecracker's API", source })?;
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
    // Polling the connection is what moves the bytes. It ends before the exchange only when Firecracker hangs up, and
    // the exchange then returns the better error.
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
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
    use std::future::{pending, ready};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;
    use tokio::sync::oneshot;

    const SOCKET: &str = "api.sock";
    const DONE: &[u8] = b"HTTP/1.1 204 \r\n\r\n";
    const SHORT: Duration = Duration::from_millis(50);

    /// An API that gives `answer` to one request, whatever it is.
    fn answering(answer: Vec<u8>) -> (tempfile::TempDir, Api) {
        answering_after(ready(()), answer)
    }

    /// The same, once `work` is done.
    fn answering_after(work: impl Future + Send + 'static, answer: Vec<u8>) -> (tempfile::TempDir, Api) {
        let dir = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(dir.path().join(SOCKET)).expect("bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.expect("a request");
            work.await;
            let _ = stream.write_all(&answer).await;
        });
        let api = Api::new(SocketPath::new(dir.path(), SOCKET).expect("a path"));
        (dir, api)
    }

    async fn until_idle(api: &Api) {
        let idle = async {
            while api.is_working() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(DEADLINE, idle).await.expect("the request has ended");
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

    #[tokio::test]
    async fn a_caller_that_is_dropped_does_not_end_the_work() {
        let (done, work) = oneshot::channel::<()>();
        let (_dir, api) = answering_after(work, DONE.to_vec());
        assert!(!api.is_working());
        let dropped = tokio::time::timeout(SHORT, api.put_memory("/snapshot/create", &json!({}))).await;
        assert!(dropped.is_err(), "{dropped:?}");
        assert_eq!(api.ask().await, Reply::Answered);
        assert!(api.is_working());
        done.send(()).expect("it works");
        until_idle(&api).await;
    }

    #[tokio::test]
    async fn a_deadline_ends_the_wait_and_not_the_work() {
        let (done, work) = oneshot::channel::<()>();
        let (_dir, api) = answering_after(work, DONE.to_vec());
        let ended = api.put_memory_within(SHORT, "/snapshot/create", &json!({})).await;
        assert!(matches!(ended, Err(VmmError::Hung { .. })), "{ended:?}");
        // The next one waits for its turn.
        let second = api.put_memory_within(SHORT, "/snapshot/create", &json!({})).await;
        assert!(matches!(second, Err(VmmError::Hung { .. })), "{second:?}");
        assert!(api.is_working());
        done.send(()).expect("it works");
        until_idle(&api).await;
    }

    #[tokio::test]
    async fn work_that_is_answered_or_whose_connection_ends_is_over() {
        let (_dir, api) = answering(DONE.to_vec());
        api.put_memory("/snapshot/create", &json!({})).await.expect("done");
        until_idle(&api).await;
        let (_dir, api) = answering(Vec::new());
        api.put_memory("/snapshot/create", &json!({})).await.expect_err("it has hung up");
        until_idle(&api).await;
    }

    #[tokio::test]
    async fn the_watchdog_tells_silence_from_what_this_server_cannot_ask() {
        let (_dir, api) = answering(b"HTTP/1.1 400 \r\nContent-Length: 2\r\n\r\n{}".to_vec());
        assert_eq!(api.ask().await, Reply::Answered, "a refusal is an answer");
        let (dir, api) = answering_after(pending::<()>(), Vec::new());
        let silent = tokio::time::timeout(SHORT, api.ask()).await;
        assert!(silent.is_err(), "{silent:?}");
        std::fs::remove_file(dir.path().join(SOCKET)).expect("removed");
        assert_eq!(api.ask().await, Reply::NotAsked, "there is no path to it");
        drop(UnixListener::bind(dir.path().join(SOCKET)).expect("bound"));
        assert_eq!(api.ask().await, Reply::Silent, "nobody listens");
    }
}
