"""Names, metadata keys and channel options of every call; nothing else may spell them."""

from __future__ import annotations

from typing import Final

FEDERATION: Final = "clouddeploy.federation.v1.Federation"
"""Service of the sites: Prove, Register, Session, Download, Upload, Received."""
ADMIN: Final = "clouddeploy.federation.v1.Admin"
"""Service of the people: Prove, Login, Challenge, Submit, Command, DownloadJob."""

PROVE: Final = f"/{FEDERATION}/Prove"
PROVE_TO_ADMIN: Final = f"/{ADMIN}/Prove"
LOGIN: Final = f"/{ADMIN}/Login"
REGISTER: Final = f"/{FEDERATION}/Register"
SESSION: Final = f"/{FEDERATION}/Session"
DOWNLOAD: Final = f"/{FEDERATION}/Download"
UPLOAD: Final = f"/{FEDERATION}/Upload"
RECEIVED: Final = f"/{FEDERATION}/Received"
"""How many bytes of an upload that was cut are at the server."""
CHALLENGE: Final = f"/{ADMIN}/Challenge"
SUBMIT: Final = f"/{ADMIN}/Submit"
COMMAND: Final = f"/{ADMIN}/Command"
DOWNLOAD_JOB: Final = f"/{ADMIN}/DownloadJob"

TOKEN_KEY: Final = "clouddeploy-token"  # noqa: S105 - the key's name
SECURITY_KEY: Final = "clouddeploy-security"
"""In a call of Prove: the `connection_security` of the caller's kit."""
JOB_KEY: Final = "clouddeploy-job"
SHA256_KEY: Final = "clouddeploy-sha256"
SUBMIT_TOKEN_KEY: Final = "clouddeploy-submit-token"  # noqa: S105 - the key's name
SIGNED_KEY: Final = "clouddeploy-signed"
"""In a call of Submit: the first message is what the submitter signed, the zip follows. A header is too small."""
ERROR_KEY: Final = "clouddeploy-error"
"""Trailing metadata: the stable name of the error, see `admin.session`."""

CHUNK_BYTES: Final = 1 << 20
"""1 MiB messages were as fast as anything larger (design §7)."""

_MESSAGE_BYTES: Final = 8 << 20
_WINDOW_BYTES: Final = 64 << 20

# Azure drops idle connections after four minutes, other balancers after 350 s: the client pings every minute, and the
# server must be told that this is welcome or it answers `too_many_pings` (grpc/grpc#18468).
CLIENT_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_frame_size", 16_777_215),
    ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    # Several sites on one machine must not share a connection: the certificate of the first would speak for all.
    ("grpc.use_local_subchannel_pool", 1),
    # Rejoining is our own loop's decision (cap 5 s); the channel must not sit on a longer back-off of its own.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
SERVER_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
    ("grpc.http2.max_frame_size", 16_777_215),
    ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a coin toss
)
