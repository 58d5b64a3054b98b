"""Answers: JSON out, mistakes as `{"error": {"code", "message", "field"}}`, and the headers that each answer carries."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from aiohttp import ContentTypeError, web
from multidict import CIMultiDict

from engine.errors import EngineError

BODY_MAX = 1 << 20
JSON = "application/json"

HEADERS: dict[str, str] = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "tickfold",
}
"""On every answer, unless the handler said otherwise (assets may be cached)."""
_JSON_HEADERS = CIMultiDict({"Content-Type": JSON, **HEADERS})

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How long a client may keep us waiting, seconds, and how many may be connected."""

    idle_s: float = 15.0  # until the headers of a request are there, from the start or since the last answer
    body_s: float = 10.0  # until its body is there
    unread_s: float = 30.0  # until a websocket client has read what was sent
    connections: int = 512


class ApiError(EngineError):
    """What a request is answered with that cannot be served. The text is shown to the client: no paths, no tracebacks."""

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The error as JSON has it."""
        return {"error": {"code": self.code, "message": str(self), "field": self.field}}


def answer(body: Any, status: int = 200) -> web.Response:
    """Return an answer of JSON. body: bytes that are JSON already, or what msgspec can encode; NaN becomes null."""
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return web.Response(body=encoded, status=status, headers=_JSON_HEADERS)


def failure(error: ApiError) -> web.Response:
    """Return the answer that an error is."""
    made = answer(error.body(), error.status)
    made.headers.update(error.headers)
    if error.status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        made.force_close()  # what is left of the body is not waited for
    return made


def plain_error(status: int, headers: dict[str, str] | None = None) -> ApiError:
    """Return the error of a status that needs no more words than its name."""
    phrase = HTTPStatus(status).phrase
    return ApiError(status, phrase.lower().replace(" ", "_").replace("-", "_"), phrase, headers=headers)


async def body_of(request: web.Request, limits: Limits) -> bytes:
    """Return the body of a request. Raises ApiError for one that is too large, too slow or broken."""
    if (request.content_length or 0) > BODY_MAX:
        raise _too_large()
    try:
        if request.content.is_eof():  # as a rule it came with the headers, and no timer is needed
            return await request.read()
        async with asyncio.timeout(limits.body_s):
            return await request.read()
    except TimeoutError:
        message = f"the body was not there within {limits.body_s:g} s"
        raise ApiError(HTTPStatus.REQUEST_TIMEOUT, "timeout", message) from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large() from None
    except (web.RequestPayloadError, ContentTypeError, ValueError):
        message = "the body breaks off, or is not encoded as its headers say"
        raise ApiError(HTTPStatus.BAD_REQUEST, "bad_body", message) from None


def _too_large() -> ApiError:
    return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", f"the body exceeds {BODY_MAX} bytes")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Return what a body of JSON holds. Raises ApiError that names the field which does not fit."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, "bad_json", f"the body is no JSON: {error}") from None


def invalid(error: msgspec.ValidationError) -> ApiError:
    """Return the error of a value that does not fit, with its place as the field: `entities.symbol[2]`."""
    said, _, at = str(error).partition(" - at `")
    field = at.rstrip("`").removeprefix("$").lstrip(".") or None
    if field is None and "field `" in said:  # of the outermost object: a field that is missing
        field = said.partition("field `")[2].partition("`")[0]
    said = said.replace("`", "")
    return ApiError(
        HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", f"{field}: {said}" if field else f"the body: {said}", field
    )
