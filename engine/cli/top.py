"""`tickfold top`: a running daemon, looked at over HTTP twice a second."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.options import DONE, Verbs, add_verb, read_config

if TYPE_CHECKING:
    from engine.cli.client import Client
    from engine.cli.top_view import Sample, TopView

POLL_S = 0.5
LIST_EVERY = 4  # so many polls between two looks at which views and keys there are


def add(verbs: Verbs) -> None:
    """Add the verb."""
    top = add_verb(
        verbs, "top", show_top, "look at a running daemon: feeds, rates, latency, features, strategies, journal"
    )
    top.add_argument("--url", metavar="URL", help="where it listens (default: server.host and server.port)")
    top.add_argument("--once", action="store_true", help="print one picture and exit, as where stdout is no terminal")
    top.add_argument(
        "--token-file", type=Path, metavar="FILE", help="its token, if it wants one: it listens beyond this machine"
    )


def show_top(options: argparse.Namespace) -> int:
    """Show a daemon until Ctrl-C, or once."""
    from rich.console import Console

    from engine.cli.client import Client, read_token
    from engine.cli.top_view import TopView

    url = options.url
    if url is None:
        server = read_config(options).server
        host = f"[{server.host}]" if ":" in server.host else server.host
        url = f"http://{host}:{server.port}"
    client = Client(url, token=read_token(options.token_file))
    view = TopView(client.url)
    try:
        sampler = _Sampler(client)
        view.add(sampler.sample())
        if options.json or options.once or not sys.stdout.isatty():
            time.sleep(POLL_S)  # rates are the differences of two
            view.add(sampler.sample())
            if options.json:
                print(json.dumps(view.document(), allow_nan=False))
            else:
                Console().print(view.picture(Console().width))
            return DONE
        _watch(sampler, view)
    finally:
        client.close()
    return DONE


class _Sampler:
    """Polls a daemon; which views and keys there are is asked for less often."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._polls = 0

    def sample(self) -> Sample:
        """Ask once. Raises ServiceError."""
        from engine.cli.top_view import Sample, shown_features

        if self._polls % LIST_EVERY == 0:
            self._features = self._client.features()
        self._polls += 1
        health = self._client.health()
        keys = [(key.exchange, key.symbol) for key in self._features.keys]
        rows = self._client.newest(keys, shown_features(self._features))
        return Sample(time.monotonic(), health, self._features, rows)


def _watch(sampler: _Sampler, view: TopView) -> None:
    """Draw twice a second until Ctrl-C. A daemon that goes away is waited for."""
    from rich.console import Console
    from rich.live import Live

    from engine.errors import ServiceError

    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            due = time.monotonic() + POLL_S
            live.update(view.picture(console.width, console.height), refresh=True)
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                view.add(sampler.sample())
            except ServiceError as error:
                view.lose(str(error), time.time_ns())
