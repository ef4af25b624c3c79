"""Waiting for a condition: the only place in the tests that lets time pass."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_until(what: str, probe: Callable[[], Value], timeout: float = 30.0, interval: float = 0.05) -> Value:
    """Calls `probe` until it returns something true, and returns that.

    Exceptions count as "not yet". On time-out (seconds) the last answer or exception is part of the message.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            last: object = probe()
            if last:
                return last  # type: ignore[return-value]
        except AssertionError as error:
            last = f"assertion: {error}"
        except Exception as error:
            last = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for: {what}; last: {last!r}")
        time.sleep(interval)
