//! What transforms write down: no secret, whatever level is asked for, ours or our libraries'.
//!
//! A process of its own: what is listened to is settled for a whole process when a line is first reached.

#[path = "transform/server.rs"]
mod server;
#[path = "transform/support.rs"]
mod support;

use crate::server::Server;
use crate::support::{API, PublicCa, Sandbox, empty, in_world_on};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

const AT: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("runtime")
}

#[test]
fn case_25_no_secret_is_in_the_log_at_any_level() {
    in_world_on(one_thread, || async {
        let log = Log::default();
        // The server is told the secret, and may log it: it has threads of its own, which nobody listens to.
        let elsewhere = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let ca = PublicCa::new();
        let issued = ca.issue(API);
        let started = elsewhere.spawn(Server::start(AT, issued, &["h2", "http/1.1"]));
        let server = started.await.expect("a server");
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(log.clone())
            .finish();
        let listening = subscriber.set_default();

        let sandbox = Sandbox::start(&ca, &[(API, AT)]).await;
        let request = |uri: &str| Request::get(uri).header("host", API).header("authorization", "x").body(empty());
        let mut http1 = sandbox.http1(API, AT).await;
        let mut http2 = sandbox.http2(API, AT).await;
        for _ in 0..2 {
            http1.ready().await.expect("ready");
            let answer = http1.send_request(request("/hello").expect("a request")).await.expect("an answer");
            answer.into_body().collect().await.expect("a body");
            let uri = format!("https://{API}/hello");
            let answer = http2.send_request(request(&uri).expect("a request")).await.expect("an answer");
            answer.into_body().collect().await.expect("a body");
            server.hang_up_and_wait().await;
        }
        let other = Request::get("/").header("host", "other.example.com").body(empty()).expect("a request");
        http1.ready().await.expect("ready");
        assert_eq!(http1.send_request(other).await.expect("an answer").status().as_u16(), 421);
        drop(listening);

        let headers: Vec<HeaderMap> = server.seen().into_iter().map(|seen| seen.headers).collect();
        assert_eq!(headers.len(), 4);
        let log = String::from_utf8_lossy(&log.0.lock()).into_owned();
        for said in ["h2::", "rustls::", "refused: a request for another host"] {
            assert!(log.contains(said), "no {said} in {} bytes", log.len());
        }
        let key = sandbox.authority.key_pem();
        let key = key.lines().nth(1).expect("a key");
        for secret in ["the-injected-secret", key] {
            let line = log.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{line:?}");
        }
        elsewhere.shutdown_background();
    });
}
