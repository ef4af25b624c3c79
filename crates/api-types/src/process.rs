//! Commands run in a sandbox, and environment variables.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// How long a command may take when nothing is asked for, in seconds.
pub const DEFAULT_EXEC_TIMEOUT_S: u64 = 30;
/// How long a command may take, in seconds: as long as a sandbox may live.
pub const EXEC_TIMEOUT_S_RANGE: std::ops::RangeInclusive<u64> = 1..=28800;
/// Exit code of a command whose time was up, as `timeout(1)` has it.
pub const TIMED_OUT_EXIT_CODE: i32 = 124;
/// Bytes of a command: what Linux takes as one argument (`MAX_ARG_STRLEN`), less the NUL.
pub const COMMAND_MAX: usize = 128 * 1024 - 1;
/// Bytes of all environment variables of one request together, counted as `NAME=value` and a NUL.
pub const ENV_BYTES_MAX: usize = 64 * 1024;
/// Environment variables of one request.
pub const ENV_COUNT_MAX: usize = 4096;

/// Body of `process/execute`, as a client sends it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecuteRequest {
    /// Run with `/bin/sh -c`.
    #[schema(min_length = 1, max_length = 131071)]
    pub command: String,
    /// Working directory; the image's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Environment variables on top of the sandbox's own, 64 KiB in all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Seconds until the command is killed; 30 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 28800)]
    pub timeout: Option<u64>,
}

/// Answer of `process/execute`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecuteResponse {
    /// The shell's exit code; 128 + signal number when a signal killed it; 124 when its time was up.
    pub exit_code: i32,
    /// What it wrote to standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// What it wrote to standard error, and a line of ours when its time was up or output was cut off.
    pub stderr: String,
}
