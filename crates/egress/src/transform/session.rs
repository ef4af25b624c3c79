//! Handles the requests of one guest connection: each is checked, rewritten and sent, and its answer is streamed back.

use super::body::{Answer, Upload};
use super::refusal::Refusal;
use super::rules::{self, Rules};
use super::target::Target;
use super::upstream::Upstream;
use super::websocket::{self, Switched};
use crate::context::EgressContext;
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
    pub(crate) context: Arc<EgressContext>,
    pub(crate) target: Arc<Target>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) upstream: Upstream,
    /// Set once a refusal asks for a new connection; an HTTP/2 connection is then shut down.
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
        self.context.journal.deny(&refusal.denial);
        if refusal.closes {
            self.is_ending.store(true, Ordering::Relaxed);
        }
        refusal.answer(version)
    }

    /// Takes the WebSocket that the connection has switched to, if it has.
    pub(crate) fn take_switched(&self) -> Option<Switched> {
        self.switched.lock().take()
    }

    async fn pass(&self, mut request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
        let version = request.version();
        let guest = websocket::is_wanted(&request).then(|| hyper::upgrade::on(&mut request));
        let (head, body) = request.into_parts();
        self.target.check(&head)?;
        let permit = self.permit(version)?;
        let answer = self.upstream.send(self.rewrite(head, body, guest.is_some())?).await?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(guest, answer);
        }
        let (mut head, body) = answer.into_parts();
        rules::towards_guest(&mut head.headers);
        if version != Version::HTTP_2 {
            // The upstream's version says nothing about this connection. hyper answers 1.0 to a guest that speaks it.
            head.version = Version::HTTP_11;
        }
        Ok(Response::from_parts(head, Answer::from_upstream(body, permit)))
    }

    /// Takes one of the sandbox's permits for an HTTP/2 request.
    fn permit(&self, version: Version) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
        // An HTTP/1.1 connection has one request at a time, which its own permit covers. An HTTP/2 stream buffers as
        // much as a connection does, so it counts as one.
        if version != Version::HTTP_2 {
            return Ok(None);
        }
        let permit = Arc::clone(&self.context.connections).try_acquire_owned();
        permit.map(Some).map_err(|_: TryAcquireError| Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            denial: Denial::TooMany { what: "connections and requests of this sandbox through the proxy" },
            closes: false,
        })
    }

    /// Turns the guest's request into the upstream's.
    fn rewrite(&self, mut head: Parts, body: Incoming, is_websocket: bool) -> Result<Request<Upload>, Refusal> {
        head.uri = self.target.uri(&head.uri, head.version)?;
        let body = Upload::new(body, Arc::clone(&self.rules));
        self.rules.towards_upstream(&mut head.headers, head.version, self.target.host());
        if head.version != Version::HTTP_2 {
            head.version = Version::HTTP_11;
            if body.is_endless() {
                // Without the header, hyper leaves out the body of a GET whose length it does not know.
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
