"""The API held to its own description: schemathesis sends what that allows, and what it does not."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks

from engine.serving.openapi import description
from engine.serving.server import Server, serve
from engine.serving.stream import FORMATS
from tests.serving import Daemon

EXAMPLES, MANY = 10, 500
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
WITH_INPUT = (
    ("POST", "/get-online-features"), ("POST", "/push"), ("POST", "/commands"), ("GET", "/stream"), ("GET", "/models"),
)  # fmt: skip
"""In which something can be wrong."""
VALID, INVALID = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
OPERATIONS = (
    ("POST", "/get-online-features"), ("POST", "/push"), ("POST", "/commands"), ("GET", "/health"), ("GET", "/ready"),
    ("GET", "/features"), ("GET", "/models"), ("GET", "/openapi.json"), ("GET", "/metrics"), ("GET", "/"), ("GET", "/stream"),
)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Server]]:
    """A server on a loop of its own: schemathesis does not await."""
    folder: Path = tmp_path_factory.mktemp("data")
    daemon = Daemon(folder)
    daemon.push_recorded()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(serve(daemon), loop).result(30.0)
    yield daemon, server
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30.0)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30.0)
    loop.close()


def test_it_describes_every_route_and_no_other(served: tuple[Daemon, Server]) -> None:
    found = requests.get(f"{served[1].url}/openapi.json", timeout=10.0).json()
    assert found == msgspec.json.decode(msgspec.json.encode(description(served[0].version)))
    described = {(method.upper(), path) for path, methods in found["paths"].items() for method in methods}
    assert described == set(OPERATIONS)
    for method, path in described:
        assert requests.request(method, served[1].url + path, timeout=10.0).status_code not in (404, 405)
    names = {parameter["name"]: parameter for parameter in found["paths"]["/stream"]["get"]["parameters"]}
    assert names["format"]["schema"]["enum"] == list(FORMATS)


@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(MANY, marks=pytest.mark.soak)])
@pytest.mark.parametrize("with_token", [False, True], ids=["without the token", "with the token"])
@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [(*operation, VALID) for operation in OPERATIONS] + [(*operation, INVALID) for operation in WITH_INPUT],
)
def test_no_request_brings_a_5xx_or_an_answer_that_is_not_described(
    served: tuple[Daemon, Server], method: str, path: str, mode: GenerationMode, with_token: bool, examples: int
) -> None:
    daemon, server = served
    operation = schemathesis.openapi.from_dict(description(daemon.version))[path][method]
    headers = {"Authorization": f"Bearer {server.token}"} if with_token else {}
    statuses: Counter[int] = Counter()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    def hold(case: schemathesis.Case[Any]) -> None:
        answer = case.call(base_url=server.url, headers=headers, timeout=10.0)
        case.validate_response(answer, checks=CHECKS)
        statuses[answer.status_code] += 1

    hold()
    assert statuses
    assert max(statuses) < 500
    if path in ("/push", "/commands") and not with_token:
        assert min(statuses) >= 400
