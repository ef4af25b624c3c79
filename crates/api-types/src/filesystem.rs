//! Bodies of the filesystem tools.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bytes of the longest path.
// `PATH_MAX` of Linux, less the NUL: the guest's kernel would refuse a longer one.
pub const PATH_BYTES_MAX: usize = 4095;
/// Exclude globs of one request at most; the agent's protocol has the same bound (`MAX_PATTERNS`).
pub const EXCLUDE_MAX: usize = 1024;

/// Body of `stat` and `exists`. A relative path is below the image's working directory, here and in all other tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PathRequest {
    /// The path of a file, directory or link in the sandbox.
    pub path: String,
}

/// Body of `ls`, which lists a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LsRequest {
    /// The directory to list.
    pub path: String,
    /// Whether its subdirectories are listed too.
    #[serde(default)]
    pub recursive: bool,
    /// Globs of entries to leave out. One without a `/` is compared with names, one with a `/` with paths below the
    /// directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1024)]
    pub exclude: Vec<String>,
}

/// Body of `mkdir`, which makes a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MkdirRequest {
    /// The directory to make.
    pub path: String,
    /// Whether missing parents are made, and an existing directory is no error.
    #[serde(default)]
    pub recursive: bool,
    /// Octal permissions of the directory; `755` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-7]{1,5}$")]
    pub permissions: Option<String>,
}

/// Body of `read-file`. `head` and `tail` exclude each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReadFileRequest {
    /// The file to read.
    pub path: String,
    /// Number of bytes to skip at the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Number of bytes to read at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Number of lines to read from the beginning of the range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<u32>,
    /// Number of lines to read from the end of the range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
}

/// Body of `delete`, which deletes a file, a directory or a link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeleteRequest {
    /// The file, directory or link to delete. A link is not followed.
    pub path: String,
    /// Whether a directory is deleted with everything in it.
    #[serde(default)]
    pub recursive: bool,
}

/// A file, a directory or a link. Links are not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileInfo {
    /// The last part of the path.
    pub name: String,
    /// The absolute path of the entry.
    pub path: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The size in bytes; of a link, the length of its target's path.
    pub size: u64,
    /// Octal permissions, for example `755`.
    pub mode: String,
    /// Time of the last modification, as Unix time in seconds.
    pub mtime: i64,
    /// Name of its owner, or the uid in digits.
    pub owner: String,
    /// Name of its group, or the gid in digits.
    pub group: String,
    /// Whether it is a symbolic link.
    pub is_symlink: bool,
    /// The target of a symbolic link, as it is written in the link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_target: Option<String>,
}

/// Answer of `ls`: a directory's entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LsResponse {
    /// The entries, ordered by path.
    pub items: Vec<FileInfo>,
}

/// Answer of `exists`: whether a path exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExistsResponse {
    /// Whether there is something at the path, symbolic links followed.
    pub exists: bool,
}
