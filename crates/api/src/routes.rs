//! The contract's paths.

pub(crate) mod answers;
pub(crate) mod filesystem;
pub(crate) mod later;
pub(crate) mod process;
pub(crate) mod sandbox;
pub(crate) mod snapshot;
pub(crate) mod system;

use crate::ApiState;
use axum::Router;
use axum::routing::MethodRouter;

/// Paths without their trailing slash, and their methods.
pub(crate) type Routes<S = ApiState> = Vec<(&'static str, MethodRouter<S>)>;

/// Every path.
pub(crate) fn all() -> Router<ApiState> {
    let routes = [
        sandbox::routes(),
        snapshot::routes(),
        system::routes(),
        process::routes(),
        filesystem::routes(),
        later::routes(),
    ];
    in_both_forms(routes.into_iter().flatten().collect())
}

/// The SDK and the schema disagree about trailing slashes, and a redirect would lose bodies: each path is there twice.
pub(crate) fn in_both_forms<S: Clone + Send + Sync + 'static>(routes: Routes<S>) -> Router<S> {
    routes.into_iter().fold(Router::new(), |router, (path, methods)| {
        router.route(path, methods.clone()).route(&format!("{path}/"), methods)
    })
}
