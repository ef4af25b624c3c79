"""ClientHellos built by hand (RFC 8446, section 4.1.2), for what no ordinary program would send."""

import struct

_EXTENSIONS = {
    10: b"\x00\x02\x00\x17",  # supported_groups: secp256r1
    11: b"\x01\x00",  # ec_point_formats: uncompressed
    13: b"\x00\x02\x04\x03",  # signature_algorithms: ecdsa_secp256r1_sha256
}
ENCRYPTED_CLIENT_HELLO = 0xFE0D


def client_hello(name: str | None, *, encrypted: bool = False, name_kind: int = 0) -> str:
    """A TLS 1.2 hello that the fake internet answers, as Latin-1; `encrypted` adds an encrypted_client_hello."""
    extensions = dict(_EXTENSIONS)
    if name is not None:
        entry = struct.pack(">BH", name_kind, len(name)) + name.encode()
        extensions[0] = struct.pack(">H", len(entry)) + entry
    if encrypted:
        extensions[ENCRYPTED_CLIENT_HELLO] = b"\x00" + b"\x00\x01\x00\x01" + b"\x07" + b"\x00\x00" + b"\x00\x04abcd"
    listed = b"".join(struct.pack(">HH", kind, len(data)) + data for kind, data in extensions.items())
    # TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, no session, no compression.
    body = (
        b"\x03\x03"
        + bytes(range(32))
        + b"\0"
        + b"\x00\x02\xc0\x2b"
        + b"\x01\0"
        + struct.pack(">H", len(listed))
        + listed
    )
    return (record(b"\x01" + struct.pack(">I", len(body))[1:] + body)).decode("latin-1")


def record(handshake: bytes) -> bytes:
    """A handshake message in one record."""
    return b"\x16\x03\x01" + struct.pack(">H", len(handshake)) + handshake


def in_records(hello: str, size: int) -> str:
    """The same hello with its message cut into records of `size` bytes."""
    message = hello.encode("latin-1")[5:]
    cut = (message[start : start + size] for start in range(0, len(message), size))
    return b"".join(record(piece) for piece in cut).decode("latin-1")
