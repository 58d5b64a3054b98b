"""Real daemons to measure: child processes over a folder of their own, an exchange that sends to them, and what the system says they took.

One core is the daemon's, with all its threads; another is everybody else's: senders, clients, this process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import Line, require
from benchmarks.sender import SYMBOLS, Turns, price_of
from benchmarks.stopwatch import VIEW
from engine.config import to_toml
from feeds.products import built_in_products

ROOT = Path(__file__).parents[1]
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
DAEMONS, OTHERS = CORES[0], CORES[-1]
READY_S = 60.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
NS_PER_S, US_PER_S, NS_PER_US = 1_000_000_000, 1_000_000, 1_000
BUILT_IN = ("moving_average_cross", "order_flow_imbalance")
EXCHANGE = "binance"

Integers = npt.NDArray[np.int64]
Settings = dict[str, dict[str, Any]]


def environment() -> dict[str, str]:
    """Ours without its TICKFOLD_ settings, but for where compiled programs lie."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TICKFOLD_") or name == "TICKFOLD_CACHE_DIR"
    }


def pin(process: subprocess.Popen[str], core: int | None) -> None:
    """Keep a child that was just started, and all threads that it is to start, on one core."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, {core})


def ours(symbols: Sequence[str] = SYMBOLS) -> list[str]:
    """Return symbols as tickfold spells them."""
    known = built_in_products(EXCHANGE)
    return [known[name] for name in symbols]


class Sender:
    """The exchange of `sender.py` in a process of its own. Commands wait for their answers unless they are begun with `begin`."""

    def __init__(
        self,
        *,
        symbols: Sequence[str] = SYMBOLS,
        stamps: Path | None = None,
        rows: int = 0,
        kind: str = "trade",
    ) -> None:
        words = [sys.executable, "-m", "benchmarks.sender", "--symbols", ",".join(symbols), "--rows", str(rows)]
        words += ["--kind", kind]
        if stamps is not None:
            words += ["--stamps", str(stamps)]
        self.symbols = symbols
        self._stamps = stamps
        self._process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        pin(self._process, OTHERS)
        self.port: int = self.answer()["port"]

    def url(self, path: str = "/stream") -> str:
        """Where it listens: combined frames at /stream, raw ones at /ws."""
        return f"ws://127.0.0.1:{self.port}{path}"

    def begin(self, do: str, **arguments: Any) -> None:
        """Give a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to the oldest command that has none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        require(line, f"the sender ended, exit code {self._process.poll()}")
        return json.loads(line)

    def do(self, do: str, **arguments: Any) -> Any:
        """Give a command, and wait until it is done."""
        self.begin(do, **arguments)
        return self.answer()

    def stamps(self, first: int, count: int) -> Integers:
        """When frames were sent and when they were due: count x 2, CLOCK_MONOTONIC ns."""
        assert self._stamps is not None
        return np.fromfile(self._stamps, np.int64, 2 * count, offset=16 * first).reshape(-1, 2)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Usage:
    """What a process has taken, at a moment of CLOCK_MONOTONIC."""

    at_ns: int
    cpu_s: float
    """User and system, all threads."""
    loop_cpu_s: float
    """Of its first thread, on which a daemon folds and serves."""
    anonymous_mib: float
    resident_mib: float


def usage(pid: int) -> Usage:
    """Read what a process has taken from /proc."""

    def seconds(path: str) -> float:
        parts = Path(path).read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / TICKS_PER_S

    sizes = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmRSS", "RssAnon"):
            sizes[name] = int(rest.split()[0]) / 1024
    now = time.monotonic_ns()
    whole, loop = seconds(f"/proc/{pid}/stat"), seconds(f"/proc/{pid}/task/{pid}/stat")
    return Usage(now, whole, loop, sizes["RssAnon"], sizes["VmRSS"])


class Daemon:
    """A daemon in a process of its own, ready. `settings` are sections of the configuration, on top of the defaults."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        *,
        core: int | None = DAEMONS,
        module: str = "engine",
        cache: Path | None = None,
    ) -> None:
        self.folder = folder
        file = folder.with_suffix(".toml")
        server = {"port": 0, **settings.get("server", {})}
        file.write_text(to_toml({**settings, "server": server}), encoding="utf-8")
        variables = environment() | ({} if cache is None else {"TICKFOLD_CACHE_DIR": str(cache)})
        begun = time.monotonic_ns()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "run", "--data", str(folder), "--config", str(file)],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        pin(self.process, core)
        self.said: list[str] = []
        self.url = ""
        assert self.process.stderr is not None
        watch = threading.Timer(READY_S, self.process.kill)
        watch.start()
        for line in self.process.stderr:
            self.said.append(line)
            if line.startswith("  page "):
                self.url = line.split()[1]
                break
        self.ready_s = (time.monotonic_ns() - begun) / NS_PER_S
        watch.cancel()
        require(
            self.url, f"the daemon did not get ready, exit code {self.process.poll()}: {''.join(self.said)[-2000:]}"
        )
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any) -> Any:
        token = (self.folder / "token").read_text().strip()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def sequence(self) -> int:
        found: int = self.get("/ready")["live_sequence"]
        return found

    def folded(self) -> int:
        """Trades, quotes and gaps that were folded."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("tickfold_folded_total "):
                    return int(float(line.split()[1]))
        return 0

    def wait_for(self, count: int, seconds: float = 60.0) -> None:
        """Wait until so many trades were folded."""
        deadline = time.monotonic() + seconds
        while (found := self.folded()) < count:
            require(time.monotonic() < deadline, f"{found} of {count} trades were folded within {seconds} s")
            require(self.process.poll() is None, f"the daemon ended: {''.join(self.said)[-2000:]}")
            time.sleep(0.1)
        require(found == count, f"{found} trades and gaps were folded, expected {count}")

    def usage(self) -> Usage:
        return usage(self.process.pid)

    def newest(self, symbols: Sequence[str], features: Sequence[str]) -> list[list[Any]]:
        """The newest values of features by `/get-online-features`, a list a symbol."""
        names = ours(symbols)
        body = {"features": list(features), "entities": {"exchange": [EXCHANGE] * len(names), "symbol": names}}
        results = self.post("/get-online-features", body)["results"][2:]
        return [list(values) for values in zip(*(result["values"] for result in results), strict=True)]

    def check_prices(self, last: int, symbols: Sequence[str]) -> None:
        """The newest price of each symbol is the one that was sent last, `last` being the last frame."""
        found, turns = self.newest(symbols, ["market:price"]), Turns(len(symbols))
        for code, (price,) in enumerate(found):
            expected = price_of(turns.last(code, last))
            require(price == expected, f"{symbols[code]}: the newest price is {price}, expected {expected}")

    def stop(self) -> dict[str, Any]:
        """End it as a system does; return what it says of itself at the end."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        require(code == 0, f"the daemon ended with {code}: {''.join(self.said)[-2000:]}")
        file = self.folder / "digest.json"
        found: dict[str, Any] = json.loads(file.read_bytes()) if file.exists() else {}
        return found

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.kill()


def settings(sender: Sender, *, path: str = "/stream", strategies: Sequence[str] = BUILT_IN) -> Settings:
    """The defaults, but for where the exchange is and what is listened to."""
    return {
        "feeds": {"run": ["binance"], "symbols": ours(sender.symbols)},
        "binance": {"websocket": sender.url(path), "streams": ["trade"]},
        "strategies": {"run": list(strategies)},
    }


def with_stopwatch(found: Settings, path: Path, rows: int, symbols: Sequence[str]) -> Settings:
    """The same with the stopwatch among the strategies, behind the others."""
    parameters = {"path": str(path), "rows": rows, "symbols": ours(symbols)}
    run = [*found["strategies"]["run"], str(ROOT / "benchmarks" / "stopwatch.py")]
    return {**found, "strategies": {"run": run, "parameters": {"stopwatch": parameters}}}


@dataclass(frozen=True)
class Heard:
    """When each frame of a phase was sent, was due, and was heard: CLOCK_MONOTONIC ns."""

    sent: Integers
    due: Integers
    on_tick: Integers
    on_features: Integers


def heard(sender: Sender, path: Path, first: int, count: int) -> Heard:
    """Read the stamps of both sides. Raises WrongOutputError unless every frame was heard, in order, and its features after it."""
    sent = sender.stamps(first, count)
    both = np.fromfile(path, np.int64, 2 * count, offset=16 * first).reshape(-1, 2)
    missing = int(np.count_nonzero(both == 0))
    require(not missing, f"{missing} of {2 * count} events were not heard")
    require((np.diff(both[:, 0]) >= 0).all(), "trades were heard out of order")
    require((both[:, 0] >= sent[:, 0]).all(), "a trade was heard before it was sent")
    require((both[:, 1] >= both[:, 0]).all(), f"a row of {VIEW} was heard before its trade")
    return Heard(sent[:, 0], sent[:, 1], both[:, 0], both[:, 1])


@dataclass
class Latencies(Line):
    """Durations in us, many of them: quantiles are kept, not each of them. `rounds` are parts that were measured apart."""

    rounds: list[list[float]] = field(default_factory=list)
    """[p50, p99, greatest] of each part."""

    @classmethod
    def of(cls, name: str, parts_ns: Sequence[Integers]) -> Latencies:
        """Make a line of durations in ns, round by round."""
        parts = [part / NS_PER_US for part in parts_ns]
        rounds = [np.quantile(part, (0.5, 0.99, 1.0)).round(1).tolist() for part in parts]
        return cls(name, "us", np.concatenate(parts).tolist(), rounds=rounds)

    def at_most(self, share: float, most_us: float, wanted: str) -> Latencies:
        """Set a target on a quantile; return the line."""
        self.wanted, self.met = wanted, float(np.quantile(self.values, share)) <= most_us
        return self

    def summary(self) -> dict[str, Any]:
        found = super().summary()
        del found["values"]
        shares = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0)
        values = np.quantile(self.values, shares).round(2).tolist()
        found |= {"p99.9": values[-3], "max": values[-1]}
        return found | {
            "quantiles": dict(zip(map(str, shares), values, strict=True)),
            "rounds_p50_p99_max": self.rounds,
        }
