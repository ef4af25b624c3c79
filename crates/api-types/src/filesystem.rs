//! Files in a sandbox.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bytes of a path: what Linux takes (`PATH_MAX`), less the NUL.
pub const PATH_BYTES_MAX: usize = 4095;
/// Exclude globs of one request.
pub const EXCLUDE_MAX: usize = 1024;

/// Body of `stat` and `exists`. Relative paths are below the image's working directory, here and elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PathRequest {
    /// The path.
    pub path: String,
}

/// Body of `ls`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LsRequest {
    /// The directory.
    pub path: String,
    /// Its subdirectories too.
    #[serde(default)]
    pub recursive: bool,
    /// Globs of what is left out: against the name, or, with a `/` in it, against the path below the directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1024)]
    pub exclude: Vec<String>,
}

/// Body of `mkdir`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MkdirRequest {
    /// The directory.
    pub path: String,
    /// Make missing parents, and take an existing directory as done.
    #[serde(default)]
    pub recursive: bool,
    /// Octal permissions; `755` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-7]{1,5}$")]
    pub permissions: Option<String>,
}

/// Body of `read-file`. `head` and `tail` exclude each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReadFileRequest {
    /// The file.
    pub path: String,
    /// Bytes skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only the first lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<u32>,
    /// Only the last lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
}

/// Body of `delete`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeleteRequest {
    /// The path.
    pub path: String,
    /// A directory's contents too.
    #[serde(default)]
    pub recursive: bool,
}

/// One file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileInfo {
    /// Its name.
    pub name: String,
    /// Its full path.
    pub path: String,
    /// It is a directory.
    pub is_dir: bool,
    /// Bytes.
    pub size: u64,
    /// Octal permissions: `755`.
    pub mode: String,
    /// Last modification: Unix time in seconds.
    pub mtime: i64,
    /// Name of its owner.
    pub owner: String,
    /// Name of its group.
    pub group: String,
    /// It is a symbolic link.
    pub is_symlink: bool,
    /// Where it points, if it is a symbolic link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_target: Option<String>,
}

/// Answer of `filesystem/ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LsResponse {
    /// The entries, ordered by path.
    pub items: Vec<FileInfo>,
}

/// Answer of `filesystem/exists`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExistsResponse {
    /// There is something at the path.
    pub exists: bool,
}
