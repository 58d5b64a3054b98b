"""The HTTP server: its routes, and how it starts and stops. What each route does is in its own module.

It runs on the daemon's loop and reads what the fold put out, between two inputs; only `/commands` changes anything, through
`Host.command`. A handler that fails answers 500 and is logged; the server goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from engine.config import ServerConfig
from engine.errors import ServiceError
from engine.serving import operations
from engine.serving.answers import BODY_MAX, HEADERS, ApiError, Limits, answer, body_of, failure, plain_error
from engine.serving.bulletin import bulletin_of
from engine.serving.host import Host
from engine.serving.metrics import CONTENT_TYPE, Exposition, Served
from engine.serving.models import Board, wish_of
from engine.serving.online import OnlineFeatures
from engine.serving.openapi import description
from engine.serving.page import page_routes
from engine.serving.security import Guard, check_address, read_token, token_path
from engine.serving.stream import Streams

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
STOP_S = 1.5  # how long requests that are being answered may take once it stops
BACKLOG = 128
ALLOWED_ELSEWHERE = "authorization, content-type"
PREFLIGHT_S = "600"


class Server:
    """A server that listens. `url` is where; `token` is what writes need."""

    def __init__(
        self,
        url: str,
        token: str,
        runner: web.AppRunner,
        listening: asyncio.Server,
        streams: Streams,
        ends: list[Callable[[], None]],
        looking: asyncio.Task[None],
    ) -> None:
        self.url = url
        self.token = token
        self._runner = runner
        self._listening = listening
        self._streams = streams
        self._ends = ends
        self._looking = looking

    async def stop(self) -> None:
        """Listen no more, say goodbye to websocket clients, and let requests end. Takes a few seconds at most."""
        for end in self._ends:
            end()
        self._ends.clear()
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        self._listening.close()
        await self._streams.close()
        await self._runner.cleanup()


async def serve(host: Host, limits: Limits | None = None) -> Server:
    """Start the server of a daemon on its running loop.

    Raises ConfigError for an address that is not allowed or a token file that is not safe, ServiceError if the port cannot be had.
    """
    limits = limits or Limits()
    config = host.config.server
    check_address(config)
    token = read_token(token_path(host.config))
    served = Served()
    streams = Streams(host, served, limits)
    board = Board(host)
    app = web.Application(client_max_size=BODY_MAX)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S)
    listening = await _bind(runner, config, served, limits)
    try:
        port = listening.sockets[0].getsockname()[1]
        guard = Guard(config, token, port)
        app.middlewares.append(_middleware(guard, served))
        app.on_response_prepare.append(_complete)
        app.add_routes(_routes(host, guard, served, streams, board, limits))
        app.add_routes(page_routes(host))
        await runner.setup()
        with _explained(config):
            await listening.start_serving()
    except BaseException:
        listening.close()
        await runner.cleanup()
        raise
    ends = [host.listen(served.hear), host.listen(streams.hear)]
    looking = asyncio.get_running_loop().create_task(board.run())
    return Server(f"http://{_reachable(config.host)}:{port}", token, runner, listening, streams, ends, looking)


async def _bind(runner: web.AppRunner, config: ServerConfig, served: Served, limits: Limits) -> asyncio.Server:
    """Take the port; nothing is accepted yet."""
    loop = asyncio.get_running_loop()
    most = limits.connections + config.clients_max
    options = {"access_log": None, "keepalive_timeout": limits.idle_s, "lingering_time": limits.body_s / 2.0}

    def connection() -> Connection:
        assert runner.server is not None  # it was set up before anything is accepted
        return Connection(runner.server, served, most, loop=loop, **options)

    with _explained(config):
        return await loop.create_server(connection, config.host, config.port, backlog=BACKLOG, start_serving=False)


@contextlib.contextmanager
def _explained(config: ServerConfig) -> Iterator[None]:
    """Raise ServiceError for a port that cannot be had."""
    try:
        yield
    except OSError as error:
        where = f"server: {config.host} port {config.port}"
        if error.errno == errno.EADDRINUSE:
            raise ServiceError(
                f"{where}: in use, perhaps by another tickfold; TICKFOLD_SERVER__PORT=8421 takes another port, 0 any free one"
            ) from error
        raise ServiceError(
            f"{where}: {error.strerror}; TICKFOLD_SERVER__HOST and TICKFOLD_SERVER__PORT choose others"
        ) from error


def _reachable(host: str) -> str:
    """The host of the URL under which an address is reached from this machine."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host or "127.0.0.1"
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return f"[{address}]" if address.version == 6 else str(address)


class Connection(web.RequestHandler):
    """One connection. There are at most so many, and what is no HTTP is answered like every other mistake."""

    __slots__ = ("_most", "_served", "_server")

    def __init__(self, server: web.Server, served: Served, most: int, **options: object) -> None:
        super().__init__(server, **options)  # type: ignore[arg-type]  # as web.Server passes them on
        self._server = server
        self._served = served
        self._most = most

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._server.connections) > self._most:
            self._served.refused_connections += 1
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what came before any handler: a request that cannot be parsed."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            structlog.get_logger().error("request failed", error=repr(exc), exc_info=exc)
        made = failure(plain_error(status))
        made.force_close()
        return made


# -- what every request goes through


def _middleware(guard: Guard, served: Served) -> Middleware:
    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            guard.check(request)
            made = await handler(request)
        except ApiError as error:
            made = failure(error)
        except web.HTTPException as error:
            made = _routing(request, error)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            structlog.get_logger().error("request failed", path=request.path, error=repr(error), exc_info=error)
            made = failure(plain_error(HTTPStatus.INTERNAL_SERVER_ERROR))
        if (origin := request.headers.get("Origin")) and origin.lower() in guard.foreign_origins and not made.prepared:
            _allow_reading(request, made, origin)
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "none"
        served.requests[route, made.status] = served.requests.get((route, made.status), 0) + 1
        return made

    return guarded


def _routing(request: web.Request, error: web.HTTPException) -> web.Response:
    """Return the answer where no handler is: which methods there are, if it is only the method."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = {"Allow": ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))}
        if request.method == "OPTIONS":
            return web.Response(status=HTTPStatus.NO_CONTENT, headers=allowed)
        return failure(plain_error(error.status, allowed))
    return failure(plain_error(error.status))


def _allow_reading(request: web.Request, made: web.StreamResponse, origin: str) -> None:
    """Tell a browser that a page of an allowed origin may read this."""
    made.headers["Access-Control-Allow-Origin"] = origin
    made.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    made.headers.add("Vary", "Origin")
    if request.method == "OPTIONS":
        made.headers["Access-Control-Allow-Methods"] = made.headers.get("Allow", "")
        made.headers["Access-Control-Allow-Headers"] = ALLOWED_ELSEWHERE
        made.headers["Access-Control-Max-Age"] = PREFLIGHT_S


async def _complete(_: web.Request, made: web.StreamResponse) -> None:
    """Add the headers that every answer carries, where a handler did not set its own."""
    headers = made.headers
    if "Content-Security-Policy" not in headers:
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        headers["Server"] = HEADERS["Server"]  # aiohttp has put in its own by now


# -- routes


def _routes(
    host: Host, guard: Guard, served: Served, streams: Streams, board: Board, limits: Limits
) -> list[web.RouteDef]:
    bulletin = bulletin_of(host)
    online = OnlineFeatures(operations.store_of(host), host.clock)
    exposition = Exposition(host, bulletin, served, board)
    described = description(host.version)

    async def get_online_features(request: web.Request) -> web.Response:
        return answer(online.answer(await body_of(request, limits)))

    async def commands(request: web.Request) -> web.Response:
        guard.check_write(request)
        return answer(operations.obey(host, await body_of(request, limits)))

    async def push(request: web.Request) -> web.Response:
        guard.check_write(request)
        return answer(operations.push(await body_of(request, limits)))

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=exposition.text(), headers={"Content-Type": CONTENT_TYPE})

    async def models(request: web.Request) -> web.Response:
        return answer(await board.standings(wish_of(request.query)))

    def get(path: str, make: Callable[[], object]) -> web.RouteDef:
        async def handle(_: web.Request) -> web.Response:
            return answer(make())

        return web.get(path, handle)

    return [
        web.post("/get-online-features", get_online_features),
        web.post("/commands", commands),
        web.post("/push", push),
        get("/health", lambda: operations.health(host, bulletin, board)),
        get("/ready", lambda: operations.ready(host)),
        get("/features", lambda: operations.features(host, bulletin)),
        web.get("/models", models),
        get("/openapi.json", lambda: described),
        web.get("/metrics", metrics),
        web.get("/stream", streams.handle, allow_head=False),
    ]
