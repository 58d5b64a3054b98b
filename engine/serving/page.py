"""The page: its files, and the chart library where it is installed.

Files are read once, when the routes are made. Their addresses hold a hash of what is in them, so that a browser may keep them for
good and never mixes two versions; only `/` is asked for each time. uPlot comes from an installed wheel and is served if it is, byte
for byte, the release that the page was made for; otherwise the page draws with code of its own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Awaitable, Callable
from importlib import resources

import structlog
from aiohttp import web

from engine.serving.bulletin import bulletin_of
from engine.serving.host import Host

WHEEL = "metaflow-card-uplot"
UPLOT = "uPlot.iife.min.js"
UPLOT_SHA256 = "addc030d2f1268dbee42ef31f7173b624b87443277163b04651490705dce7397"  # of release 1.6.18
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
FOR_GOOD = "public, max-age=31536000, immutable"
CHART_TAG = '<script src="{chart}" defer></script>'

log = structlog.get_logger(__name__)


def page_routes(host: Host) -> list[web.RouteDef]:
    """Return the routes of the page, all of them GET: `/`, and its files under `/assets/`."""
    bulletin_of(host)  # listens from now on, so that the first viewer sees what happened before
    found = sorted(_static().iterdir(), key=lambda entry: entry.name)
    files = {entry.name: entry.read_bytes() for entry in found if entry.name.rpartition(".")[2] in TYPES}
    index = files.pop("index.html")
    place = f"/assets/{_hash(files)}"
    chart, why_not = find_uplot()
    routes = [web.get(f"{place}/{name}", _serve(body, name, FOR_GOOD)) for name, body in files.items()]
    tag = ""
    if chart is None:
        log.info("the page draws with its own charts", reason=why_not)
    else:
        address = f"/assets/uplot-{UPLOT_SHA256}.min.js"
        routes.append(web.get(address, _serve(chart, UPLOT, FOR_GOOD)))
        tag = CHART_TAG.format(chart=address)
    text = index.decode().replace("{{assets}}", place).replace("{{chart}}", tag)
    return [web.get("/", _serve(text.encode(), "index.html", "no-cache")), *routes]


def find_uplot() -> tuple[bytes | None, str]:
    """Return uPlot as the installed wheel has it, or None and the reason."""
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None, f"{WHEEL} is not installed"
    for file in files:
        if file.name == UPLOT:
            try:
                body = file.locate().read_bytes()  # type: ignore[attr-defined]  # the protocol lacks what paths have
            except OSError as error:
                return None, f"{WHEEL}: {UPLOT}: {error.strerror}"
            found = hashlib.sha256(body).hexdigest()
            if found != UPLOT_SHA256:
                return None, f"{WHEEL}: {UPLOT} has sha256 {found}: expected {UPLOT_SHA256}"
            return body, ""
    return None, f"{WHEEL} holds no {UPLOT}"


def _static() -> resources.abc.Traversable:
    return resources.files("engine.serving") / "static"


def _hash(files: dict[str, bytes]) -> str:
    """One hash of all files: they name each other, so they change their addresses together."""
    total = hashlib.sha256()
    for name, body in sorted(files.items()):
        total.update(f"{name} {len(body)} ".encode() + body)
    return total.hexdigest()[:16]


def _serve(body: bytes, name: str, cache: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    kind = TYPES[name.rpartition(".")[2]]

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8", headers={"Cache-Control": cache})

    return answer
