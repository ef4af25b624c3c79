//! Routes for files in a sandbox: each validates, wakes the sandbox if need be, and asks its agent.

use super::Described;
use crate::ApiState;
use crate::answer::Failure;
use crate::body::{JsonObject, RawBody};
use crate::detached::detached;
use crate::guest_errors::refused;
use crate::path::InPath;
use crate::routes::answers::{Errors, RawBytes};
use crate::validate::{self, Query};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use leapbox_api_types::filesystem::{
    DeleteRequest, ExistsResponse, FileInfo, LsRequest, LsResponse, MkdirRequest, PathRequest, ReadFileRequest,
};
use leapbox_auth::Caller;
use leapbox_guest_protocol as guest;
use utoipa_axum::routes;

pub(super) fn routes() -> Vec<Described> {
    vec![
        routes!(ls),
        routes!(stat),
        routes!(mkdir),
        routes!(write_file),
        routes!(read_file),
        routes!(exists),
        routes!(delete),
    ]
}

#[utoipa::path(
    post,
    path = "/v1/sandbox/{id}/filesystem/ls",
    operation_id = "filesystemLS",
    tag = "Filesystem",
    params(InPath),
    request_body = LsRequest,
    responses((status = 200, description = "The directory's entries, ordered by path.", body = LsResponse), Errors),
)]
async fn ls(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
    JsonObject(body): JsonObject,
) -> Result<Json<LsResponse>, Failure> {
    // Here as in every handler: validated before `ensure_running`, so that a bad request wakes nothing. Not detached,
    // because it changes nothing and may end with its client.
    let request = validate::filesystem::list(&body)?;
    let sandbox = api.lifecycle.ensure_running(&caller.organisation, &id).await?;
    let entries = sandbox.call(sandbox.guest.list(request)).await?.map_err(refused)?;
    Ok(Json(LsResponse { items: entries.into_iter().map(file_info).collect() }))
}

#[utoipa::path(
    post,
    path = "/v1/sandbox/{id}/filesystem/stat",
    operation_id = "filesystemStat",
    tag = "Filesystem",
    params(InPath),
    request_body = PathRequest,
    responses((status = 200, description = "The file, directory or link at the path.", body = FileInfo), Errors),
)]
async fn stat(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
    JsonObject(body): JsonObject,
) -> Result<Json<FileInfo>, Failure> {
    let path = validate::filesystem::path(&body)?;
    let sandbox = api.lifecycle.ensure_running(&caller.organisation, &id).await?;
    Ok(Json(file_info(sandbox.call(sandbox.guest.stat(path)).await?.map_err(refused)?)))
}

#[utoipa::path(
    post,
    path = "/v1/sandbox/{id}/filesystem/mkdir",
    operation_id = "filesystemMkdir",
    tag = "Filesystem",
    params(InPath),
    request_body = MkdirRequest,
    responses((status = 204, description = "The directory exists."), Errors),
)]
async fn mkdir(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
    JsonObject(body): JsonObject,
) -> Result<StatusCode, Failure> {
    let request = validate::filesystem::mkdir(&body)?;
    detached(async move {
        let sandbox = api.lifecycle.ensure_running(&caller.organisation, &id).await?;
        sandbox.call(sandbox.guest.mkdir(request)).await?.map_err(refused)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(
    post,
    path = "/v1/sandbox/{id}/filesystem/write-file",
    operation_id = "filesystemWriteFile",
    tag = "Filesystem",
    params(
        InPath,
        ("path" = String, Query, description = "The file to write; missing parent directories are made"),
        (
            "permissions" = Option<String>,
            Query,
            description = "Octal permissions, for example `0755`; `644` for a new file when absent"
        )
    ),
    request_body(
        content = RawBytes,
        content_type = "application/octet-stream",
        description = "The content, at most 10 MiB"
    ),
    responses((status = 204, description = "The file is written."), Errors),
)]
async fn write_file(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
    Query(query): Query,
    RawBody(content): RawBody,
) -> Result<StatusCode, Failure> {
    let write = validate::filesystem::write_file(&query)?;
    detached(async move {
        let sandbox = api.lifecycle.ensure_running(&caller.organisation, &id).await?;
        sandbox.call(sandbox.guest.write_file(write.path, write.permissions, &content)).await?.map_err(refused)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(
    post,
    path = "/v1/sandbox/{id}/filesystem/read-file",
    operation_id = "filesystemReadFile",
    tag = "Filesystem",
    params(InPath),
    request_body = ReadFileRequest,
    responses(
        (
            status = 200,
            description = "The file's bytes, or the part that was asked for.",
            body = RawBytes,
            content_type = "application/octet-stream"
        ),
        Errors
    ),
)]
async fn read_file(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
    JsonObject(body): JsonObject,
) -> Result<Response, Failure> {
    let request = validate::filesystem::read_file(&body)?;
    let sandbox = api.lifecycle.ensure_running(&caller.organisation, &id).await?;
    let content = sandbox.call(sandbox.guest.read_file(request)).await?.map_err(refused)?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], content).into_response())
}

#[utoipa::path(
    post,
    path = "/v1/sandbox/{id}/filesystem/exists",
    operation_id = "filesystemExists",
    tag = "Filesystem",
    params(InPath),
    request_body = PathRequest,
    responses((status = 200, description = "Whether the path exists.", body = ExistsResponse), Errors),
)]
async fn exists(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
    JsonObject(body): JsonObject,
) -> Result<Json<ExistsResponse>, Failure> {
    let path = validate::filesystem::path(&body)?;
    let sandbox = api.lifecycle.ensure_running(&caller.organisation, &id).await?;
    Ok(Json(ExistsResponse { exists: sandbox.call(sandbox.guest.exists(path)).await?.map_err(refused)? }))
}

#[utoipa::path(
    post,
    path = "/v1/sandbox/{id}/filesystem/delete",
    operation_id = "filesystemDelete",
    tag = "Filesystem",
    params(InPath),
    request_body = DeleteRequest,
    responses((status = 204, description = "The path is deleted."), Errors),
)]
async fn delete(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
    JsonObject(body): JsonObject,
) -> Result<StatusCode, Failure> {
    let request = validate::filesystem::delete(&body)?;
    detached(async move {
        let sandbox = api.lifecycle.ensure_running(&caller.organisation, &id).await?;
        sandbox.call(sandbox.guest.delete(request)).await?.map_err(refused)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn file_info(info: guest::FileInfo) -> FileInfo {
    FileInfo {
        name: info.name,
        path: info.path,
        is_dir: info.is_dir,
        size: info.size,
        mode: info.mode,
        mtime: info.mtime,
        owner: info.owner,
        group: info.group,
        is_symlink: info.is_symlink,
        link_target: info.link_target,
    }
}
