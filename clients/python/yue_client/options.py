"""The options of a connection, with their defaults and units."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from .transport import TLS


@dataclass
class Options:
    """See the README for each."""

    symbols: Any = field(default_factory=dict)
    timeout: float = 5.0
    handshake_timeout: float = 30.0
    retry: bool = False
    reconnect: bool = True
    legacy: bool = False
    keepalive: Optional[float] = 50.0
    cancel: bool = False
    describe: bool = True
    traceback: bool = False
    message_max: int = 4 << 20
    held_max: int = 8 << 20
    in_flight_max: int = 16_384
    references_max: int = 1 << 20
    output_high: int = 1 << 20
    output_max: int = 8 << 20
    tls: TLS = field(default_factory=lambda: TLS(None, None, None, None, False))
