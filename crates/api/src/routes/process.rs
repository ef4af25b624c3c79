//! The route that runs a command in a sandbox.

use super::Described;
use crate::answer::Failure;
use crate::body::JsonObject;
use crate::detached::detached;
use crate::path::InPath;
use crate::routes::answers::Errors;
use crate::{ApiState, guest_errors, validate};
use axum::extract::State;
use axum::{Extension, Json};
use leapbox_api_types::process::{ExecuteRequest, ExecuteResponse, TIMED_OUT_EXIT_CODE};
use leapbox_auth::Caller;
use leapbox_guest_protocol::ExecOutput;
use utoipa_axum::routes;

pub(super) fn routes() -> Vec<Described> {
    vec![routes!(execute)]
}

#[utoipa::path(
    post,
    path = "/v1/sandbox/{id}/process/execute",
    operation_id = "processExecute",
    tag = "Process",
    params(InPath),
    request_body = ExecuteRequest,
    responses(
        (
            status = 200,
            description = "The command has ended, or was killed because its time was up.",
            body = ExecuteResponse
        ),
        Errors
    ),
)]
async fn execute(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    InPath(id): InPath,
    JsonObject(body): JsonObject,
) -> Result<Json<ExecuteResponse>, Failure> {
    let request = validate::process::execute(&body)?;
    let timeout_s = request.timeout_ms / 1000;
    // Detached, so that a command whose client hangs up while its sandbox is woken runs, as one does that has begun.
    let output = detached(async move {
        let sandbox = api.lifecycle.ensure_running(&caller.organisation, &id).await?;
        sandbox.call(sandbox.guest.exec(request)).await?.map_err(guest_errors::refused)
    })
    .await?;
    Ok(Json(answer(output, timeout_s)))
}

/// The answer for a command's output. The contract has no field for a time-out or for output that was cut off, so each
/// is a line of its own at the end of standard error.
fn answer(output: ExecOutput, timeout_s: u32) -> ExecuteResponse {
    let mut notes = Vec::new();
    for (name, bytes, truncated) in [
        ("stdout", output.stdout.len(), output.stdout_truncated),
        ("stderr", output.stderr.len(), output.stderr_truncated),
    ] {
        if truncated {
            notes.push(format!("{name} cut off after {bytes} bytes"));
        }
    }
    if output.timed_out {
        notes.push(format!("command timed out after {timeout_s} s"));
    }
    let mut stderr = text(output.stderr);
    for note in notes {
        if !stderr.is_empty() && !stderr.ends_with('\n') {
            stderr.push('\n');
        }
        stderr.push_str(&format!("leapbox: {note}\n"));
    }
    // As `timeout(1)` has it: without this, the code would be that of the signal that ended the command.
    let exit_code = if output.timed_out { TIMED_OUT_EXIT_CODE } else { output.exit_code };
    ExecuteResponse { exit_code, stdout: text(output.stdout), stderr }
}

/// The bytes as JSON can carry them: what is not UTF-8 becomes U+FFFD.
fn text(bytes: Vec<u8>) -> String {
    // Output that is valid, up to 5 MiB of it, is moved and not copied.
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(stdout: &[u8], stderr: &[u8]) -> ExecOutput {
        ExecOutput {
            exit_code: 3,
            stdout: stdout.to_vec(),
            stderr: stderr.to_vec(),
            timed_out: false,
            stdout_truncated: false,
            stderr_truncated: false,
        }
    }

    #[test]
    fn output_is_passed_on_as_it_is_and_other_bytes_are_replaced() {
        let answer = answer(output(b"a\xffb\n", "grün".as_bytes()), 30);
        assert_eq!((answer.exit_code, answer.stdout.as_str(), answer.stderr.as_str()), (3, "a\u{fffd}b\n", "grün"));
    }

    #[test]
    fn a_time_out_is_exit_code_124_and_a_line_on_stderr() {
        let answer = answer(ExecOutput { timed_out: true, exit_code: 137, ..output(b"begun", b"half a line") }, 2);
        assert_eq!((answer.exit_code, answer.stdout.as_str()), (124, "begun"));
        assert_eq!(answer.stderr, "half a line\nleapbox: command timed out after 2 s\n");
    }

    #[test]
    fn truncated_output_is_noted() {
        let cut = ExecOutput { stdout_truncated: true, stderr_truncated: true, ..output(b"abc", b"de\n") };
        assert_eq!(
            answer(cut, 30).stderr,
            "de\nleapbox: stdout cut off after 3 bytes\nleapbox: stderr cut off after 3 bytes\n"
        );
    }
}
