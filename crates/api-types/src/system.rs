//! Answers of the system tools.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `system/user-home-dir`: a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserHomeDir {
    /// The home directory of the image's user.
    pub user_home_dir: String,
}

/// Answer of `system/workdir`: a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Workdir {
    /// The working directory of the image's processes.
    pub workdir: String,
}
