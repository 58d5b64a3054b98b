"""Secrets do not leave the process: what is logged or shown goes through here first.

A value is a secret if its key says so (`token`, `password`, `api_key`, ...; `token_file` is only a place), and inside any text the
user part of a URL, a secret among its query, and what follows `Bearer` or `Basic`. Rather too much is taken out than too little.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

REDACTED = "[redacted]"
SECRET_WORDS = (
    r"(?:token|passw(?:or)?d|passphrase|secret|authorization|api_?key|private_?key|credentials?|cookie|signature)s?"
)
_SECRET_KEY = re.compile(rf"(?:^|_|-){SECRET_WORDS}$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_TEXT: tuple[tuple[str, re.Pattern[str], str], ...] = (  # (what has to be in a text at all, what is looked for, what is put in its place)
    # user:password@ before a host. An @ behind the first slash is part of the path (Binance: /ws/btcusdt@trade) ...
    ("://", re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,15}://)[^\s/?#\"'<>]*@"), rf"\1{REDACTED}@"),
    # ... unless what stands before that slash is a user and no port: a password with a slash that nobody escaped.
    ("://", re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,15}://)[^\s:/?#@\[\"'<>]*:(?!\d{1,5}(?:[/?#\s]|$))[^\s@\"'<>]{1,512}@"), rf"\1{REDACTED}@"),
    ("=", re.compile(rf"([?&;][\w.-]*?{SECRET_WORDS}=)[^&#\s\"'<>]+", re.IGNORECASE), rf"\1{REDACTED}"),
    (" ", re.compile(r"\b(Bearer|Basic)\s+(?!\[redacted)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), rf"\1 {REDACTED}"),
)  # fmt: skip


def is_secret(key: str) -> bool:
    """Whether what stands under a key is a secret, by the key's last words."""
    return _SECRET_KEY.search(_CAMEL.sub("_", key)) is not None


def redact_text(text: str) -> str:
    """Return a text without the secrets that can be told from their surroundings."""
    for needed, pattern, put in _TEXT:
        if needed in text:
            text = pattern.sub(put, text)
    return text


def redact(value: Any, key: str = "") -> Any:
    """Return a value as it may be seen, in plain types that JSON knows; `key` is what it stands under.

    Mappings, structs and sequences are gone through; what is none of these and no number is given as its text.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): redact(part, str(name)) for name, part in value.items()}
    if is_secret(key) and value:
        return REDACTED
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [redact(part, key) for part in value]
    if isinstance(value, np.generic):
        return redact(value.item(), key)
    if isinstance(value, bytes):
        return redact_text(value.decode("utf-8", "backslashreplace"))
    return redact_text(str(value))
