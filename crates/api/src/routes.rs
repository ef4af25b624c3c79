//! All paths of the contract, and the router made of them.

pub(crate) mod answers;
mod filesystem;
pub(crate) mod not_implemented;
mod process;
mod sandbox;
mod snapshot;
mod system;

use crate::ApiState;
use axum::Router;
use axum::routing::MethodRouter;
use utoipa_axum::router::UtoipaMethodRouter;

/// The handlers of one path together with their part of the OpenAPI document, so that none is served undescribed.
pub(crate) type Described = UtoipaMethodRouter<ApiState>;

/// The handlers of every path that this version serves.
pub(crate) fn described() -> impl Iterator<Item = Described> {
    let routes = [sandbox::routes(), snapshot::routes(), system::routes(), process::routes(), filesystem::routes()];
    routes.into_iter().flatten()
}

/// The router of every path of the contract, including those that only answer 501.
pub(crate) fn all() -> Router<ApiState> {
    let served =
        described().flat_map(|(_, paths, methods)| paths.paths.into_keys().map(move |path| (path, methods.clone())));
    in_both_forms(served.chain(not_implemented::routes().map(|(path, methods)| (path.to_owned(), methods))))
}

/// A router with each path twice, with and without its trailing slash.
pub(crate) fn in_both_forms<S, P>(routes: impl IntoIterator<Item = (P, MethodRouter<S>)>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    P: AsRef<str>,
{
    // The SDK and the published schema disagree about trailing slashes, and many clients drop the body when they follow
    // a redirect.
    routes.into_iter().fold(Router::new(), |router, (path, methods)| {
        let path = path.as_ref();
        router.route(path, methods.clone()).route(&format!("{path}/"), methods)
    })
}
