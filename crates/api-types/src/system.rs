//! What a sandbox tells about itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `system/user-home-dir`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserHomeDir {
    /// Home of the image's user.
    pub user_home_dir: String,
}

/// Answer of `system/workdir`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Workdir {
    /// Working directory of the image's processes.
    pub workdir: String,
}
