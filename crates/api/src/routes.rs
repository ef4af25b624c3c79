//! The contract's paths.

pub(crate) mod answers;
mod filesystem;
pub(crate) mod later;
mod process;
mod sandbox;
mod snapshot;
mod system;

use crate::ApiState;
use axum::Router;
use axum::routing::MethodRouter;
use utoipa_axum::router::UtoipaMethodRouter;

/// The handlers of one path, with what the OpenAPI document says of them: no handler is served without its description.
pub(crate) type Described = UtoipaMethodRouter<ApiState>;

/// Every path that this version serves.
pub(crate) fn described() -> impl Iterator<Item = Described> {
    let routes = [sandbox::routes(), snapshot::routes(), system::routes(), process::routes(), filesystem::routes()];
    routes.into_iter().flatten()
}

/// Every path of the contract.
pub(crate) fn all() -> Router<ApiState> {
    let served =
        described().flat_map(|(_, paths, methods)| paths.paths.into_keys().map(move |path| (path, methods.clone())));
    in_both_forms(served.chain(later::routes().map(|(path, methods)| (path.to_owned(), methods))))
}

/// The SDK and the schema disagree about trailing slashes, and a redirect would lose bodies: each path is there twice.
pub(crate) fn in_both_forms<S, P>(routes: impl IntoIterator<Item = (P, MethodRouter<S>)>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    P: AsRef<str>,
{
    routes.into_iter().fold(Router::new(), |router, (path, methods)| {
        let path = path.as_ref();
        router.route(path, methods.clone()).route(&format!("{path}/"), methods)
    })
}
