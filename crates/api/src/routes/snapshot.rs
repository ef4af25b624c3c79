//! Routes for snapshots: create, list, restore, delete.

use super::Described;
use crate::ApiState;
use crate::answer::Failure;
use crate::body::{JsonObject, OptionalJsonObject};
use crate::detached::detached;
use crate::path::{InPath, SnapshotInPath};
use crate::routes::answers::Errors;
use crate::validate::{self, Query};
use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use leapbox_api_types::sandbox::SandboxDetails;
use leapbox_api_types::snapshot::{CreateSnapshot, RestoreSnapshotRequest, SnapshotDetails, SnapshotList};
use leapbox_auth::Caller;
use utoipa_axum::routes;

pub(super) fn routes() -> Vec<Described> {
    vec![routes!(create), routes!(restore), routes!(remove), routes!(list)]
}

#[utoipa::path(
    post,
    path = "/v1/sandbox/{id}/snapshot/create",
    operation_id = "createSnapshot",
    tag = "Snapshot",
    params(
        ("id" = String, Path, description = "The id of a sandbox that runs or is paused")
    ),
    request_body = Option<CreateSnapshot>,
    responses((status = 201, description = "The snapshot is stored.", body = SnapshotDetails), Errors),
)]
async fn create(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
    OptionalJsonObject(body): OptionalJsonObject,
) -> Result<(StatusCode, Json<SnapshotDetails>), Failure> {
    let new = validate::snapshot::create(&body)?;
    let created = detached(async move { api.lifecycle.snapshot(&caller.organisation, &id, new).await }).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

#[utoipa::path(
    post,
    path = "/v1/snapshot/restore",
    operation_id = "restoreSnapshot",
    tag = "Sandbox",
    request_body = RestoreSnapshotRequest,
    responses(
        (status = 201, description = "A new sandbox, which runs and can be used.", body = SandboxDetails),
        Errors
    ),
)]
async fn restore(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    JsonObject(body): JsonObject,
) -> Result<(StatusCode, Json<SandboxDetails>), Failure> {
    let restore = validate::snapshot::restore(&body, &api.private_networks)?;
    let restored = detached(async move { api.lifecycle.restore(&caller.organisation, restore).await }).await?;
    Ok((StatusCode::CREATED, Json(restored)))
}

#[utoipa::path(
    delete,
    path = "/v1/snapshot/{id}",
    operation_id = "deleteSnapshot",
    tag = "Snapshot",
    params(SnapshotInPath),
    responses(
        (status = 204, description = "The snapshot is deleted; sandboxes that were restored from it live on."),
        Errors
    ),
)]
async fn remove(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    SnapshotInPath(id): SnapshotInPath,
) -> Result<StatusCode, Failure> {
    detached(async move { api.lifecycle.delete_snapshot(&caller.organisation, &id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(
    get,
    path = "/v1/snapshots",
    operation_id = "listSnapshots",
    tag = "Snapshot",
    params(
        (
            "query" = Option<String>,
            Query,
            description = "Lists only snapshots whose name contains this text",
            max_length = 64
        ),
        ("sort" = Option<String>, Query, description = "The field to sort by: `created_at` (default) or `template_id`"),
        ("order-by" = Option<String>, Query, description = "The direction: `asc` or `desc` (default)"),
        ("page" = Option<u64>, Query, description = "The page's number, from 1; 1 when absent", minimum = 1),
        (
            "page-size" = Option<u64>,
            Query,
            description = "Snapshots on a page; 20 when absent",
            minimum = 1,
            maximum = 100
        )
    ),
    responses((status = 200, description = "A page of the organisation's snapshots.", body = SnapshotList), Errors),
)]
async fn list(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Query(query): Query,
) -> Result<Json<SnapshotList>, Failure> {
    let query = validate::snapshot::list(&query)?;
    Ok(Json(api.lifecycle.snapshots(&caller.organisation, query).await?))
}
