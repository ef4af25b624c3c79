//! Bodies of `process/execute`, and the bounds of commands and environment variables.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Seconds that a command may take if the request does not say.
pub const DEFAULT_EXEC_TIMEOUT_S: u64 = 30;
/// Seconds that a command may be given.
// The upper bound is the longest timeout of a sandbox, past which no command runs.
pub const EXEC_TIMEOUT_S_RANGE: std::ops::RangeInclusive<u64> = 1..=28800;
/// Exit code of a command whose time was up, as with `timeout(1)`.
pub const TIMED_OUT_EXIT_CODE: i32 = 124;
/// Bytes of the longest command.
// It is one argument of `/bin/sh -c`, for which Linux has a limit of its own (`MAX_ARG_STRLEN`), less the NUL.
pub const COMMAND_MAX: usize = 128 * 1024 - 1;
/// Bytes of all environment variables of one request together, each counted as `NAME=value` and a NUL.
pub const ENV_BYTES_MAX: usize = 64 * 1024;
/// Environment variables of one request at most; the agent's protocol has the same bound (`MAX_PAIRS`).
// The number has a bound besides the bytes, because short entries take far more memory than their bytes once decoded.
pub const ENV_COUNT_MAX: usize = 4096;

/// Body of `process/execute`: a command, and how to run it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecuteRequest {
    /// The command, which `/bin/sh -c` runs as the image's user.
    #[schema(min_length = 1, max_length = 131071)]
    pub command: String,
    /// Working directory; the image's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Environment variables besides the sandbox's own, which they replace; 64 KiB in all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Seconds until the command is killed; 30 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 28800)]
    pub timeout: Option<u64>,
}

/// Answer of `process/execute`: the outcome of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecuteResponse {
    /// The shell's exit code; 128 + the signal's number if a signal killed it; 124 if its time was up.
    pub exit_code: i32,
    /// The first 5 MiB of standard output. Bytes that are not UTF-8 are replaced by U+FFFD.
    pub stdout: String,
    /// The first 5 MiB of standard error, and a line that begins with `leapbox:` for a time-out or output that was cut
    /// off.
    pub stderr: String,
}
