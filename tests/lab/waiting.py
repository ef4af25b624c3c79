"""Waiting for a condition: the only place in the tests that lets time pass, and that knows how slow a machine is."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

# How many times slower this machine is than the one deadlines were chosen on: emulated hardware says more than 1.
SLOWNESS = float(os.environ.get("LEAPBOX_TEST_SLOWNESS", "1"))


def patience(seconds: float) -> float:
    """A deadline in seconds as it is meant on this machine. What the product promises is never stretched."""
    return seconds * SLOWNESS


def wait_until(what: str, probe: Callable[[], Value], timeout: float = 30.0, interval: float = 0.05) -> Value:
    """Calls `probe` until it returns something true, and returns that.

    Exceptions count as "not yet". On time-out (seconds, stretched by `patience`) the last answer or exception is part
    of the message.
    """
    timeout = patience(timeout)
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
