//! The layer that every request passes: request id, log span, key, rate limit, memory for the body.
//!
//! It is one layer instead of several, so that the order of its checks can be read in one place.

use crate::answer::Failure;
use crate::{body, request_id};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CONNECTION;
use leapbox_api_types::ApiError;
use leapbox_auth::{Auth, AuthError};
use leapbox_errors::chain;
use std::sync::Arc;
use std::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

/// The one path that is answered without a key.
pub(crate) const HEALTH: &str = "/healthz";

/// Checks a request and logs its answer. A request that passes has the [`Caller`](leapbox_auth::Caller) among its
/// extensions.
pub(crate) async fn guard(State(auth): State<Arc<Auth>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id::of(request.headers());
    let span = info_span!(
        "request",
        request_id = id.to_str().unwrap_or_default(),
        method = request.method().as_str(),
        path = request.uri().path(),
        organisation = Empty,
    );
    let mut response = admitted(&auth, request, next).instrument(span.clone()).await;
    let took_ms = began.elapsed().as_secs_f64() * 1000.0;
    span.in_scope(|| tracing::info!(status = response.status().as_u16(), took_ms, "answered"));
    // Here, so that refusals and failures carry it too: by this id a client's report is found in the log.
    response.headers_mut().insert(request_id::X_REQUEST_ID, id);
    response
}

async fn admitted(auth: &Auth, mut request: Request, next: Next) -> Response {
    // A probe has no key, and must not fail because the database that has the keys is slow.
    if request.uri().path() == HEALTH {
        return next.run(request).await;
    }
    // The key comes before the rate limit, because the limit is the organisation's, and both come before the body,
    // because a body costs memory.
    let caller = match auth.authenticate(request.headers()).await {
        Ok(caller) => caller,
        Err(error) => {
            if let AuthError::Unchecked { source } = &error {
                tracing::error!(error = %chain(source), "API keys cannot be checked; the request is answered 503");
            }
            return refuse(Failure::from(error), request).await;
        }
    };
    Span::current().record("organisation", caller.organisation.as_str());
    if let Err(retry_after_s) = auth.check(&caller.organisation) {
        return refuse(Failure(ApiError::RateLimited { retry_after_s }), request).await;
    }
    let Some(_memory) = body::reserve_memory(request.body()) else {
        let message = "too many large requests are being served".to_owned();
        return refuse(Failure(ApiError::Unavailable { message, retry_after_s: 1 }), request).await;
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Answers without a handler. A small body is read first, so that the connection can be used again. Otherwise the
/// answer tells the client that the connection is closed.
async fn refuse(failure: Failure, request: Request) -> Response {
    let emptied = body::discard(request.into_body()).await;
    let mut response = failure.into_response();
    if emptied.is_err() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
