//! Bodies flow both ways as they come, and stop when either end stops.

use super::support::{Body, Site, app, none, raw_app, read_head, soon, text, until};
use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Chunks = mpsc::UnboundedSender<Result<Frame<Bytes>, Infallible>>;

/// A body fed by hand.
fn fed() -> (Chunks, Body) {
    let (sender, receiver) = mpsc::unbounded();
    (sender, BodyExt::boxed(StreamBody::new(receiver)))
}

fn feed(chunks: &Chunks, bytes: &'static [u8]) {
    chunks.unbounded_send(Ok(Frame::data(Bytes::from_static(bytes)))).expect("taken");
}

/// Answers with the request's body, chunk by chunk.
async fn echo() -> std::net::SocketAddr {
    app(|request| async {
        let stream = request.into_body().into_data_stream();
        let frames = stream.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk.unwrap_or_default())));
        Response::new(StreamBody::new(frames).boxed_sync_free())
    })
    .await
}

/// `BoxBody` wants `Sync`, which a stream of a hyper body is not told to be.
trait BoxedSyncFree {
    fn boxed_sync_free(self) -> Body;
}

impl<S> BoxedSyncFree for StreamBody<S>
where
    S: futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static,
{
    fn boxed_sync_free(self) -> Body {
        let (sender, receiver) = mpsc::unbounded();
        tokio::spawn(async move {
            let mut frames = std::pin::pin!(self);
            while let Some(Ok(frame)) = frames.frame().await {
                if sender.unbounded_send(Ok(frame)).is_err() {
                    break;
                }
            }
        });
        BodyExt::boxed(StreamBody::new(receiver))
    }
}

#[tokio::test]
async fn a_conversation_within_one_request_is_not_buffered_in_either_direction() {
    let site = Site::start().await;
    let host = site.app(echo().await);
    for version in [1, 2] {
        let (chunks, body) = fed();
        feed(&chunks, b"first");
        let mut answer = match version {
            1 => {
                let request = site.request("POST", &host, "/").body(body).expect("a request");
                soon(site.h1().await.send_request(request)).await.expect("an answer")
            }
            _ => {
                let request = site.request2("POST", &host, "/").body(body).expect("a request");
                soon(site.h2().await.send_request(request)).await.expect("an answer")
            }
        };
        // HTTP/2 may end a body with an empty frame.
        let mut next = async || {
            loop {
                let frame = soon(answer.body_mut().frame()).await?;
                let data = frame.expect("a frame").into_data().expect("data");
                if !data.is_empty() {
                    return Some(data);
                }
            }
        };
        assert_eq!(next().await.expect("data"), "first", "HTTP/{version}");
        for word in [&b"second"[..], b"third"] {
            feed(&chunks, word);
            assert_eq!(next().await.expect("data"), word, "HTTP/{version}");
        }
        drop(chunks);
        assert_eq!(next().await, None, "HTTP/{version}");
    }
}

#[tokio::test]
async fn server_sent_events_arrive_as_they_are_sent() {
    let site = Site::start().await;
    let gap = Duration::from_millis(100);
    let address = raw_app(move |mut socket| async move {
        read_head(&mut socket).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        socket.write_all(head.as_bytes()).await.expect("written");
        for n in 0..5 {
            tokio::time::sleep(gap).await;
            let event = format!("data: {n}\n\n");
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            socket.write_all(chunk.as_bytes()).await.expect("written");
        }
        socket.write_all(b"0\r\n\r\n").await.expect("written");
    })
    .await;
    let host = site.app(address);
    let begin = Instant::now();
    let mut answer = site.get(&host, "/").await;
    let mut times = vec![begin.elapsed()];
    let mut events = Vec::new();
    while let Some(frame) = soon(answer.body_mut().frame()).await {
        events.push(frame.expect("a frame").into_data().expect("data"));
        times.push(begin.elapsed());
    }
    assert_eq!(events, ["data: 0\n\n", "data: 1\n\n", "data: 2\n\n", "data: 3\n\n", "data: 4\n\n"]);
    // The head came before the first event, and no event waited for the one after it.
    for (n, pair) in times.windows(2).enumerate() {
        assert!(pair[1] - pair[0] > gap / 2, "event {n} came together with what was before it: {times:?}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_application() {
    let site = Site::start().await;
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let address = raw_app(move |mut socket| {
        let counter = Arc::clone(&counter);
        async move {
            read_head(&mut socket).await;
            let block = vec![b'x'; 64 * 1024];
            let mut result = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while result.is_ok() {
                result = socket.write_all(&block).await;
                counter.fetch_add(block.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let host = site.app(address);
    let answer = site.get(&host, "/").await;
    let mut before = usize::MAX;
    let settled = || {
        let now = written.load(Ordering::SeqCst);
        std::mem::replace(&mut before, now) == now
    };
    slowly_until("the application is stopped", settled).await;
    // Socket buffers of both connections, on a kernel that lets them grow, and ours.
    assert!(written.load(Ordering::SeqCst) < 64 * 1024 * 1024, "{written:?}");
    drop(answer);
}

async fn slowly_until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut last = Instant::now();
    until(what, || {
        let due = last.elapsed() > Duration::from_millis(300);
        if due {
            last = Instant::now();
        }
        due && holds()
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_applications_connection() {
    let site = Site::start().await;
    let ended = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&ended);
    // Answers a head for `/head`, nothing for anything else, and waits for the end.
    let address = raw_app(move |mut socket| {
        let counter = Arc::clone(&counter);
        async move {
            if read_head(&mut socket).await.starts_with("GET /head") {
                socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("written");
            }
            let _rest = socket.read_to_end(&mut Vec::new()).await;
            counter.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let host = site.app(address);

    drop(site.get(&host, "/head").await);
    until("an answer half-read on HTTP/1.1 is given up", || ended.load(Ordering::SeqCst) == 1).await;

    let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\nauthorization: {}\r\n\r\n", site.key);
    let mut stream = site.tls(&[]).await;
    stream.write_all(head.as_bytes()).await.expect("written");
    until("the application is asked", || site.gateway.stats().upstream_opened == 2).await;
    drop(stream);
    until("an answer waited for on HTTP/1.1 is given up", || ended.load(Ordering::SeqCst) == 2).await;

    let mut sender = site.h2().await;
    let request = site.request2("GET", &host, "/head").body(none()).expect("a request");
    drop(sender.send_request(request).await.expect("an answer"));
    until("an answer half-read on HTTP/2 is given up", || ended.load(Ordering::SeqCst) == 3).await;

    let request = site.request2("GET", &host, "/").body(none()).expect("a request");
    let waiting = tokio::spawn(sender.clone().send_request(request));
    until("the application is asked", || site.gateway.stats().upstream_opened == 4).await;
    waiting.abort();
    until("an answer waited for on HTTP/2 is given up", || ended.load(Ordering::SeqCst) == 4).await;
}

#[tokio::test]
async fn an_upload_given_up_half_way_is_not_taken_for_complete() {
    let site = Site::start().await;
    let whole = Arc::new(AtomicBool::new(false));
    let broken = Arc::new(AtomicBool::new(false));
    let flags = (Arc::clone(&whole), Arc::clone(&broken));
    let address = app(move |request| {
        let flags = (Arc::clone(&flags.0), Arc::clone(&flags.1));
        async move {
            let complete = request.into_body().collect().await.is_ok();
            if complete { &flags.0 } else { &flags.1 }.store(true, Ordering::SeqCst);
            Response::new(none())
        }
    })
    .await;
    let host = site.app(address);
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {host}\r\nauthorization: {}\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        site.key
    );
    let mut stream = site.tls(&[]).await;
    stream.write_all(head.as_bytes()).await.expect("written");
    until("the upload began", || site.gateway.stats().bytes_to_sandboxes == 4).await;
    drop(stream);
    until("the application noticed", || broken.load(Ordering::SeqCst)).await;
    assert!(!whole.load(Ordering::SeqCst));
}

#[tokio::test]
async fn an_answer_may_come_before_the_upload_is_over() {
    let site = Site::start().await;
    let address = app(|_unread| async { Response::builder().status(413).body(text("too much")).expect("made") }).await;
    let host = site.app(address);
    let (chunks, body) = fed();
    feed(&chunks, b"some");
    let request = site.request2("POST", &host, "/").body(body).expect("a request");
    let answer = soon(site.h2().await.send_request(request)).await.expect("an answer");
    assert_eq!(answer.status(), 413);
    assert_eq!(super::support::read(answer).await, "too much");
}

#[tokio::test]
async fn large_bodies_arrive_whole_both_ways() {
    let site = Site::start().await;
    let host = site.app(echo().await);
    let block: Bytes =
        (0..256 * 1024).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>().into();
    for version in [1, 2] {
        let (chunks, body) = fed();
        for _ in 0..64 {
            chunks.unbounded_send(Ok(Frame::data(block.clone()))).expect("taken");
        }
        drop(chunks);
        let answer = match version {
            1 => {
                let request = site.request("POST", &host, "/").body(body).expect("a request");
                soon(site.h1().await.send_request(request)).await.expect("an answer")
            }
            _ => {
                let request = site.request2("POST", &host, "/").body(body).expect("a request");
                soon(site.h2().await.send_request(request)).await.expect("an answer")
            }
        };
        let whole = soon(answer.into_body().collect()).await.expect("a body").to_bytes();
        assert_eq!(whole.len(), 64 * block.len());
        assert!(whole.chunks(block.len()).all(|part| part == block), "HTTP/{version}");
    }
}
