//! One guest connection's requests: each is checked, rewritten, sent, and its answer streamed back.

use super::body::{Answer, Upload};
use super::refusal::Refusal;
use super::rules::{self, Rules};
use super::target::Target;
use super::upstream::Upstream;
use super::websocket::{self, Switched};
use crate::gate::Gate;
use http::header::TRANSFER_ENCODING;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use leapbox_egress_policy::Denial;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};

pub(crate) struct Session {
    pub(crate) gate: Arc<Gate>,
    pub(crate) target: Arc<Target>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) upstream: Upstream,
    /// The guest should come again on a new connection.
    pub(crate) is_ending: AtomicBool,
    pub(crate) switched: Mutex<Option<Switched>>,
}

impl Session {
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        let version = request.version();
        let refusal = match self.pass(request).await {
            Ok(answer) => return answer,
            Err(refusal) => refusal,
        };
        self.gate.journal.deny(&refusal.denial);
        if refusal.closes {
            self.is_ending.store(true, Ordering::Relaxed);
        }
        refusal.answer(version)
    }

    /// The WebSocket that the connection was switched to, if it was.
    pub(crate) fn take_switched(&self) -> Option<Switched> {
        self.switched.lock().take()
    }

    async fn pass(&self, mut request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
        let version = request.version();
        let guest = websocket::is_wanted(&request).then(|| hyper::upgrade::on(&mut request));
        let (head, body) = request.into_parts();
        self.target.check(&head)?;
        let place = self.place(version)?;
        let answer = self.upstream.send(self.rewrite(head, body, guest.is_some())?).await?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(guest, answer);
        }
        let (mut head, body) = answer.into_parts();
        rules::towards_guest(&mut head.headers);
        if version != Version::HTTP_2 {
            // hyper says 1.0 to those who do; the upstream's own version is between it and us.
            head.version = Version::HTTP_11;
        }
        Ok(Response::from_parts(head, Answer::upstreams(body, place)))
    }

    /// HTTP/2: a place among the sandbox's connections, because what a request buffers is as much as a connection's. The
    /// place of an HTTP/1.1 connection is its one request's, too.
    fn place(&self, version: Version) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        if version != Version::HTTP_2 {
            return Ok(None);
        }
        let place = Arc::clone(&self.gate.connections).try_acquire_owned();
        place.map(Some).map_err(|_: TryAcquireError| Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            denial: Denial::TooMany { what: "connections and requests of this sandbox through the proxy" },
            closes: false,
        })
    }

    /// The request as the upstream gets it.
    fn rewrite(&self, mut head: Parts, body: Incoming, is_websocket: bool) -> Result<Request<Upload>, Refusal> {
        head.uri = self.target.uri(&head.uri, head.version)?;
        let body = Upload::new(body, Arc::clone(&self.rules));
        self.rules.towards_upstream(&mut head.headers, head.version, self.target.host());
        if head.version != Version::HTTP_2 {
            head.version = Version::HTTP_11;
            if body.is_endless() {
                // hyper would leave out the body of a GET whose length it does not know.
                head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        if is_websocket {
            websocket::ask(&mut head.headers);
        }
        Ok(Request::from_parts(head, body))
    }

    fn switch(&self, guest: Option<OnUpgrade>, mut answer: Response<Incoming>) -> Result<Response<Answer>, Refusal> {
        let Some(guest) = guest.filter(|_| websocket::is_agreed(answer.headers())) else {
            let what = "it switched to a protocol that it was not asked for".into();
            return Err(Refusal::upstream(Denial::Upstream { name: self.target.name.clone(), what }));
        };
        let upstream = hyper::upgrade::on(&mut answer);
        *self.switched.lock() = Some(Switched { guest, upstream });
        Ok(websocket::agree(answer.into_parts().0))
    }
}
