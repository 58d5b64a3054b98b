"""Who may ask what: the token, and the names that a Host or Origin header may carry.

A page of somebody else's that is open in the user's browser can send requests to loopback, and by rebinding its own name to
127.0.0.1 read the answers. So every request must name a host of ours, and one that says where it comes from must come from us.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import stat
from http import HTTPStatus
from pathlib import Path

from aiohttp import web
from multidict import CIMultiDictProxy

from engine.config import Config, ServerConfig
from engine.errors import ConfigError
from engine.serving.answers import JSON, ApiError

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
TOKEN_BYTES = 32
TOKEN_CHARACTERS_MIN = 16
TOKEN_FILE_MAX = 4_096
HTTP_PORT = 80
BEARER = {"WWW-Authenticate": 'Bearer realm="tickfold"'}


def is_loopback(host: str) -> bool:
    """Whether an address that is listened on can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(config: ServerConfig) -> None:
    """Raise ConfigError for an address beyond loopback that was not allowed."""
    if not is_loopback(config.host) and not config.allow_remote:
        raise ConfigError(
            f"server.host = {config.host!r}: expected a loopback address such as 127.0.0.1; any other one needs "
            "server.allow_remote = true, and then every request needs the token"
        )


def token_path(config: Config) -> Path:
    """Where the token lies: `server.token_file`, or DIR/token."""
    return Path(config.server.token_file or Path(config.data.dir) / "token")


def read_token(path: Path) -> str:
    """Return the token, made now if there is none. The file belongs to its owner alone, from its first moment.

    Raises ConfigError for a file that others can read, that holds no token, or that cannot be read or made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
        # O_NONBLOCK: a pipe in its place must not hold the start.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            text = file.read(TOKEN_FILE_MAX).decode("ascii", "replace").strip()
    except OSError as error:
        raise ConfigError(f"server.token_file: {path}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode) or found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        raise ConfigError(
            f"server.token_file: {path}: mode {mode}: expected 0600, so that nobody else can use the token"
        )
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"server.token_file: {path}: owned by user {found.st_uid}, expected {os.geteuid()}")
    if len(text) < TOKEN_CHARACTERS_MIN or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(
            f"server.token_file: {path}: expected one word of at least {TOKEN_CHARACTERS_MIN} ASCII characters; without the file a "
            "new token is made"
        )
    return text


def _make(path: Path) -> None:
    """Write a new token beside its place, and link it there: it appears whole, and only if there is none yet."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)
        except FileExistsError:
            return  # another process was first, and its token holds
    finally:
        fresh.unlink()


class Guard:
    """Judges requests by their headers. `port` is the bound one."""

    def __init__(self, config: ServerConfig, token: str, port: int) -> None:
        self._token = token.encode()
        self.token_everywhere = not is_loopback(config.host)
        names = [*LOOPBACK_NAMES]
        if not _is_wildcard(config.host):
            names.append(f"[{config.host.strip('[]')}]" if ":" in config.host else config.host.lower())
        self._hosts = frozenset([*names, *(f"{name}:{port}" for name in names)])
        self._allowed = frozenset(name.lower() for name in config.allowed_hosts)
        default = [f"http://{name}" for name in names] if port == HTTP_PORT else []
        self._origins = frozenset([*default, *(f"http://{name}:{port}" for name in names)])
        self.foreign_origins = frozenset(origin.lower().rstrip("/") for origin in config.allowed_origins)
        """Origins that the configuration allows besides our own: browsers are told that they may read."""
        self.refused = 0

    def check(self, request: web.BaseRequest) -> None:
        """Raise ApiError for a foreign Host or Origin, and where the token is needed everywhere, without it."""
        headers: CIMultiDictProxy[str] = request.headers
        hosts = headers.getall("Host", ())
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            self.refused += 1
            message = (
                f"Host {', '.join(hosts)[:100]!r} is none of this server's; server.allowed_hosts names further ones"
            )
            raise ApiError(HTTPStatus.FORBIDDEN, "foreign_host", message, "Host")
        for origin in headers.getall("Origin", ()):
            if origin.lower() not in self._origins and origin.lower() not in self.foreign_origins:
                self.refused += 1
                message = f"Origin {origin[:100]!r} is not this server's; server.allowed_origins names further ones"
                raise ApiError(HTTPStatus.FORBIDDEN, "foreign_origin", message, "Origin")
        if self.token_everywhere:
            self.check_token(request)

    def _is_ours(self, host: str) -> bool:
        if host in self._hosts:
            return True
        host = host.lower()
        # A configured name without a port stands for the name at any port: a proxy or a tunnel chooses its own.
        name, _, port = host.rpartition(":")
        return host in self._hosts or host in self._allowed or (port.isdigit() and name in self._allowed)

    def check_token(self, request: web.BaseRequest) -> None:
        """Raise ApiError unless the request carries the token. The comparison takes as long for any wrong one."""
        given = request.headers.get("Authorization")
        if given is None:
            self.refused += 1
            message = "expected Authorization: Bearer TOKEN; the token lies in the data folder, or in server.token_file"
            raise ApiError(HTTPStatus.UNAUTHORIZED, "no_token", message, "Authorization", BEARER)
        scheme, _, word = given.partition(" ")
        matches = hmac.compare_digest(word.strip().encode("utf-8", "surrogateescape"), self._token)
        if scheme.lower() != "bearer" or not matches:
            self.refused += 1
            raise ApiError(
                HTTPStatus.UNAUTHORIZED, "wrong_token", "the token is not the right one", "Authorization", BEARER
            )

    def check_write(self, request: web.BaseRequest) -> None:
        """Raise ApiError for a request that changes something without the token, or that is no JSON."""
        if not self.token_everywhere:
            self.check_token(request)
        if request.content_type != JSON:
            message = f"Content-Type {request.content_type[:100]!r}: expected {JSON}"
            raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not_json", message, "Content-Type")


def _is_wildcard(host: str) -> bool:
    """Whether an address stands for all of this machine's."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return not host
