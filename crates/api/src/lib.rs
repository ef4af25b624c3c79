//! The control plane over HTTP: the contract's paths, in front of `lifecycle`.
//!
//! ```text
//! request ─► guard (request id, span, key, rate limit) ─► routes/<resource>.rs
//!              a handler: body.rs / path.rs take the request apart
//!                         validate/<resource>.rs   JSON → checked request, or every bad field at once (pure)
//!                         lifecycle, guest client  the work; detached.rs where it changes something
//!                         answer.rs                value or error → response
//! ```
//! `serve` mounts [`router`] on the API's address, and on the gateway behind TLS. Every path is taken with and without
//! its trailing slash. Fields that the contract does not know are ignored, because clients of a later contract send
//! them; fields it knows and this version does not serve are refused.

#![forbid(unsafe_code)]

mod answer;
mod body;
mod detached;
mod fields;
mod guard;
mod guest_errors;
mod openapi;
mod path;
mod request_id;
mod routes;
mod validate;

pub use openapi::openapi;

use axum::Router;
use axum::routing::get;
use leapbox_auth::Auth;
use leapbox_egress_policy::Cidr;
use leapbox_lifecycle::Lifecycle;
use std::sync::Arc;

/// Everything that the handlers work with. Clones share it.
#[derive(Clone)]
pub struct ApiState {
    pub lifecycle: Lifecycle,
    /// Checks keys and counts requests for the rate limit.
    pub auth: Arc<Auth>,
    /// Private networks that the operator lets policies open with their `allow_cidrs`.
    pub private_networks: Arc<[Cidr]>,
}

/// The whole control plane. `GET /healthz` alone needs no key: it answers 200 as soon as this router is served.
pub fn router(state: ApiState) -> Router {
    guarded(routes::all(), Arc::clone(&state.auth)).with_state(state)
}

/// Puts the guard in front of the routes, and behind them the answers for unknown paths and methods.
fn guarded<S: Clone + Send + Sync + 'static>(routes: Router<S>, auth: Arc<Auth>) -> Router<S> {
    routes
        .route(guard::HEALTH, get(answer::healthy))
        .fallback(answer::unknown_path)
        .method_not_allowed_fallback(answer::wrong_method)
        // Last, so that it wraps the fallbacks too: without a key nobody learns which paths exist.
        .layer(axum::middleware::from_fn_with_state(auth, guard::guard))
}

#[cfg(test)]
mod tests;
