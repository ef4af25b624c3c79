//! Checks requests to run a command.

use crate::fields::Fields;
use leapbox_api_types::ApiError;
use leapbox_api_types::process::{COMMAND_MAX, DEFAULT_EXEC_TIMEOUT_S, EXEC_TIMEOUT_S_RANGE};
use leapbox_guest_protocol::{ExecRequest, MAX_STREAM_OUTPUT};
use serde_json::{Map, Value};

/// Checks a command. Its `envs` are added to the sandbox's own, and win over them.
pub(crate) fn execute(body: &Map<String, Value>) -> Result<ExecRequest, ApiError> {
    let mut fields = Fields::new(body);
    let command = fields.required_text("command", COMMAND_MAX);
    // `path` notes an absent field as missing, and this one may be absent.
    let cwd = fields.value("cwd").map(|_| fields.path("cwd"));
    let env = fields.environment("envs");
    let timeout_s = fields.integer("timeout", EXEC_TIMEOUT_S_RANGE).unwrap_or(DEFAULT_EXEC_TIMEOUT_S);
    fields.done(ExecRequest {
        command,
        cwd,
        env,
        timeout_ms: u32::try_from(timeout_s * 1000).unwrap_or(u32::MAX),
        output_limit: u32::try_from(MAX_STREAM_OUTPUT).unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(body: Value) -> Vec<String> {
        match execute(body.as_object().expect("an object")) {
            Err(ApiError::Validation(notes)) => {
                notes.into_iter().map(|note| format!("{}: {}", note.field, note.error)).collect()
            }
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_command_alone_gets_thirty_seconds_and_the_images_directory() {
        let request = execute(json!({ "command": "true", "cwd": null }).as_object().expect("an object"));
        let request = request.expect("valid");
        assert_eq!((request.command.as_str(), request.cwd, request.timeout_ms), ("true", None, 30_000));
        assert_eq!((request.env, request.output_limit), (Vec::new(), 5 << 20));
    }

    #[test]
    fn all_fields_are_passed_on() {
        let body = json!({ "command": "env", "cwd": "/tmp", "envs": { "B": "2", "A": "1" }, "timeout": 28800 });
        let request = execute(body.as_object().expect("an object")).expect("valid");
        assert_eq!((request.cwd.as_deref(), request.timeout_ms), (Some("/tmp"), 28_800_000));
        assert_eq!(request.env, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())]);
    }

    #[test]
    fn every_bad_field_is_named_at_once() {
        let body = json!({ "command": "", "cwd": "", "envs": { "A": 1 }, "timeout": 28801 });
        assert_eq!(
            refused(body),
            [
                "command: must not be empty",
                "cwd: must not be empty",
                "envs: the value of \"A\" must be a string",
                "timeout: must be an integer between 1 and 28800",
            ]
        );
        assert_eq!(refused(json!({})), ["command: is required"]);
        assert_eq!(
            refused(json!({ "command": ["ls"], "timeout": "5" })),
            ["command: must be a string", "timeout: must be an integer between 1 and 28800"]
        );
    }

    #[test]
    fn a_command_is_as_long_as_the_kernel_takes() {
        let longest = "x".repeat(COMMAND_MAX);
        assert!(execute(json!({ "command": longest }).as_object().expect("an object")).is_ok());
        let longer = format!("{longest}x");
        assert_eq!(refused(json!({ "command": longer })), ["command: must be at most 131071 bytes long"]);
    }
}
