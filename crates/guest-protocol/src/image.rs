//! What an image says about how its processes run.

use serde::{Deserialize, Serialize};

/// User, folders and environment of an image's processes. Written into every root file system as
/// `/.leapbox/image.json`, where the agent reads it too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// User name processes run as.
    pub user: String,
    pub uid: u32,
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Its home folder.
    pub home: String,
    /// Working folder of processes.
    pub workdir: String,
    /// Environment of processes.
    pub env: Vec<(String, String)>,
    /// Where `https://<id>.<domain>/` goes: the image's `PORT`.
    pub port: Option<u16>,
}
