"""The checks of `make lint` that read Rust: what they refuse, and what they let pass."""

import pytest
from lint import errors

PRODUCT = "crates/storage/src/lib.rs"


def lines(text: str, path: str = PRODUCT) -> list[int]:
    """Where the text is refused."""
    return [int(violation.split(":")[1]) for violation in errors.violations(path, text)]


@pytest.mark.parametrize(
    "call",
    [
        'tracing::warn!(%error, "text");',
        'tracing::warn!(path = %path.display(), ?error, "text");',
        'tracing::debug!(\n    id,\n    error = %left,\n    "text (with one) parenthesis"\n);',
        'tracing::error!(reason = %source, "text");',
        'tracing::error!(error = &error as &dyn std::error::Error, "text");',
        'tracing::info!("text: {error}");',
        'tracing::info!("text: {}", error);',
        'log::line(format_args!("text: {error:?}"));',
        'Err(e) => tracing::trace!(event = "x", %e, "text"),',
    ],
)
def test_a_log_line_that_shows_an_error_alone_is_refused(call):
    assert lines(f"fn f() {{\n{call}\n}}") == [2]


@pytest.mark.parametrize(
    "call",
    [
        'tracing::warn!(error = %chain(&error), "text");',
        'tracing::warn!(error = %chain(failed.error()), path = %path.display(), "text");',
        'tracing::warn!(error = %chain(&*source), "(%error, {name})");',
        'log::line(format_args!("text: {}", chain(&error)));',
        'tracing::info!(kind = ?error.kind(), "text");',
        "let text = error.to_string();",
        '// tracing::warn!(%error, "text");',
    ],
)
def test_a_log_line_that_tells_the_causes_passes(call):
    assert lines(f"fn f() {{\n{call}\n}}") == []


@pytest.mark.parametrize(
    "code",
    [
        "answer.map_err(|_| Lost)?;",
        "answer.map_err(\n    |_| Lost,\n)?;",
        "fn f() -> Result<(), String> {}",
        "type T = Result<HashMap<String, Vec<u8>>, String>;",
        "let x: Result<Box<dyn Fn(u8) -> u8>, String> = y;",
    ],
)
def test_an_error_that_is_dropped_or_only_a_text_is_refused(code):
    assert lines(f"\n{code}") == [2]


@pytest.mark.parametrize(
    "code",
    [
        "answer.map_err(|_: RecvError| Lost)?;",
        "answer.map_err(|source| Failed { source })?;",
        "fn f() -> Result<String, Failed> {}",
        "type T = Result<HashMap<String, String>, Failed>;",
        "fn f() -> io::Result<String> {}",
    ],
)
def test_an_error_that_keeps_its_cause_or_names_what_it_drops_passes(code):
    assert lines(code) == []


def test_the_tests_of_a_crate_are_not_checked():
    bare = 'tracing::warn!(%error, "text");'
    assert lines(f"#[cfg(test)]\nmod tests {{\n{bare}\n}}") == []
    assert all("/tests/" not in path.as_posix().split("/crates/")[-1] for path in errors.product_files())
