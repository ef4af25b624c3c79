//! Paths of the contract that this version does not serve: each answers 501 and says so.
//!
//! They are routed, so that a client reads what is missing instead of a 404, which it would take for an unknown
//! sandbox. A path leaves the table in the change that serves it.

use crate::answer::Failure;
use axum::extract::MatchedPath;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::Method;
use leapbox_api_types::ApiError;

const GET: MethodFilter = MethodFilter::GET;
const POST: MethodFilter = MethodFilter::POST;
const PATCH: MethodFilter = MethodFilter::PATCH;
const DELETE: MethodFilter = MethodFilter::DELETE;

/// The paths, with the methods that the contract has for them.
const NOT_IMPLEMENTED: [(&str, MethodFilter); 46] = [
    ("/v1/sandbox/{id}/mounts", POST),
    ("/v1/sandbox/{id}/mounts/{mount}", PATCH.or(DELETE)),
    ("/v1/sandbox/{id}/presigned-url", POST),
    ("/v1/sandbox/{id}/presigned-url/{url}", DELETE),
    ("/v1/template", POST),
    ("/v1/template/{template}", PATCH.or(DELETE)),
    ("/v1/sandbox/{id}/filesystem/write-files", POST),
    ("/v1/sandbox/{id}/filesystem/read-files", POST),
    ("/v1/sandbox/{id}/filesystem/set-permissions", POST),
    ("/v1/sandbox/{id}/filesystem/glob", POST),
    ("/v1/sandbox/{id}/filesystem/grep", POST),
    ("/v1/sandbox/{id}/filesystem/edit-file", POST),
    ("/v1/sandbox/{id}/filesystem/edit-files", POST),
    ("/v1/sandbox/{id}/filesystem/move", POST),
    ("/v1/sandbox/{id}/filesystem/copy", POST),
    ("/v1/sandbox/{id}/filesystem/tree", POST),
    ("/v1/sandbox/{id}/git/clone", POST),
    ("/v1/sandbox/{id}/git/status", POST),
    ("/v1/sandbox/{id}/git/branches", POST),
    ("/v1/sandbox/{id}/git/diff-unstaged", POST),
    ("/v1/sandbox/{id}/git/diff-staged", POST),
    ("/v1/sandbox/{id}/git/diff", POST),
    ("/v1/sandbox/{id}/git/reset", POST),
    ("/v1/sandbox/{id}/git/log", POST),
    ("/v1/sandbox/{id}/git/show", POST),
    ("/v1/sandbox/{id}/git/create-branch", POST),
    ("/v1/sandbox/{id}/git/checkout-branch", POST),
    ("/v1/sandbox/{id}/git/delete-branch", POST),
    ("/v1/sandbox/{id}/git/add", POST),
    ("/v1/sandbox/{id}/git/commit", POST),
    ("/v1/sandbox/{id}/git/push", POST),
    ("/v1/sandbox/{id}/git/pull", POST),
    ("/v1/sandbox/{id}/pty", GET.or(POST)),
    ("/v1/sandbox/{id}/pty/{session}", GET.or(DELETE)),
    ("/v1/sandbox/{id}/pty/{session}/connect", GET),
    ("/v1/sandbox/{id}/pty/{session}/resize", POST),
    ("/v1/sandbox/{id}/lsp/start", POST),
    ("/v1/sandbox/{id}/lsp/stop", POST),
    ("/v1/sandbox/{id}/lsp/completions", POST),
    ("/v1/sandbox/{id}/lsp/document-symbols", POST),
    ("/v1/sandbox/{id}/lsp/did-open", POST),
    ("/v1/sandbox/{id}/lsp/did-close", POST),
    ("/v1/sandbox/{id}/ssh/access", POST),
    ("/v1/sandbox/{id}/ssh/{access}", DELETE),
    ("/v1/sandbox/{id}/ssh/{access}/validate", POST),
    ("/v1/sandbox/{id}/ssh/{access}/regen", POST),
];

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> impl Iterator<Item = (&'static str, MethodRouter<S>)> {
    NOT_IMPLEMENTED.into_iter().map(|(path, methods)| (path, on(methods, not_implemented)))
}

async fn not_implemented(method: Method, path: MatchedPath) -> Failure {
    let path = path.as_str().trim_end_matches('/');
    Failure(ApiError::NotImplemented(format!("{method} {path} is not supported by this version of Leapbox yet")))
}
