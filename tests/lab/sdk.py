"""The official SDK, unmodified, on Pythons it does not expect.

leap0 0.8.0 declares Python ≥ 3.10, but builds pydantic models from `typing.TypedDict` classes, which pydantic accepts
from Python 3.12 on only. Debian 12 has 3.11: there, `typing.TypedDict` is replaced by the equivalent class of
`typing_extensions` before the SDK is first imported. Everything that uses the SDK imports it from here.
"""

import sys
import typing

import typing_extensions

if sys.version_info < (3, 12):
    typing.TypedDict = typing_extensions.TypedDict  # type: ignore[misc]

from leap0 import AsyncLeap0Client, Leap0Client
from leap0.models.errors import (
    Leap0ConflictError,
    Leap0Error,
    Leap0NotFoundError,
    Leap0PermissionError,
)
from leap0.models.sandbox import NetworkPolicyMode

__all__ = [
    "AsyncLeap0Client",
    "Leap0Client",
    "Leap0ConflictError",
    "Leap0Error",
    "Leap0NotFoundError",
    "Leap0PermissionError",
    "NetworkPolicyMode",
]
