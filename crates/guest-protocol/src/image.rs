//! The settings of an image for the processes that run in it.

use serde::{Deserialize, Serialize};

/// User, directories and environment of an image's processes. `templates` writes it into every root file system as
/// `/.leapbox/image.json`, and the agent reads it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Name of the user as which processes run.
    pub user: String,
    pub uid: u32,
    pub gid: u32,
    /// The user's supplementary groups.
    pub groups: Vec<u32>,
    /// The user's home directory.
    pub home: String,
    /// The directory in which processes start.
    pub workdir: String,
    /// Environment variables of processes; the sandbox's and a request's own win over them.
    pub env: Vec<(String, String)>,
    /// The port to which `https://<id>.<domain>/` leads: the image's `PORT` variable.
    pub port: Option<u16>,
}
