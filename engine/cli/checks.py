"""What `tickfold doctor` checks of tickfold itself: configuration, plugins, compiled programs, port, token, page, data folder."""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import socket
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.cli.client import Client, TokenWantedError
from engine.cli.options import load_strategies, read_config
from engine.config import NOT_KEYS, PREFIX, Config
from engine.doctor import Finding, nearest
from engine.errors import EngineError, ServiceError
from engine.jit import cache_folder, cache_place, is_compiled

if TYPE_CHECKING:
    from store.folder import DataFolder

NAMES_SHOWN = 8
FIRST_START_S = 10
"""What compiling the built-in views takes on a recent core: benchmarks/results/bench_start.md."""


def check_config(options: argparse.Namespace) -> tuple[Config, Finding]:
    """The configuration as the daemon would read it, and which file and variables set what. Wrong: the defaults stand in for it."""
    try:
        config = read_config(options)
    except EngineError as error:
        return Config(), Finding(
            "config",
            "fail",
            str(error),
            "a configuration that can be read",
            "mend it; `tickfold config` shows all keys",
        )
    path = options.config or Path("config.toml")
    said = f"no {path}: built-in defaults"
    if path.is_file():
        keys = [
            f"{section}.{key}"
            for section, values in tomllib.loads(path.read_text(encoding="utf-8")).items()
            for key in values
        ]
        said = f"{path} sets {_listed(keys)}"
    variables = [
        name for name in sorted(os.environ) if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in NOT_KEYS
    ]
    return config, Finding("config", "ok", f"{said}; the environment sets {_listed(variables)}")


def check_plugins(config: Config) -> Finding:
    """Whether the strategies and the views that are configured can be loaded."""
    from replay.driver import views_of

    try:
        strategies, views = load_strategies(config), views_of(config)
    except EngineError as error:
        return Finding(
            "plugins", "fail", str(error), "strategies and views that load", "mend strategies.run or features.views"
        )
    names = ", ".join(strategy.name for strategy in strategies) or "no strategy"
    return Finding("plugins", "ok", f"{names}; views {', '.join(view.name for view in views)}")


def check_cache(config: Config) -> Finding:
    """Whether the programs of the configured views are compiled, in a folder that nobody else can write to."""
    from replay.driver import views_of
    from store.program import program_of

    place = cache_place()
    try:
        if place.exists():
            cache_folder()
        elif not os.access(nearest(place), os.W_OK):
            return Finding(
                "compiled programs",
                "fail",
                f"{place} cannot be made",
                "a folder of yours",
                "TICKFOLD_CACHE_DIR names another",
            )
        views = views_of(config)
        warm = place.exists() and is_compiled(program_of(views).source)
    except EngineError as error:
        return Finding(
            "compiled programs",
            "fail",
            str(error),
            "a private folder, and views that compile",
            "TICKFOLD_CACHE_DIR names another",
        )
    features = sum(len(view.features) for view in views)
    found = f"{features} features of {len(views)} views in {place}"
    if not warm:
        remedy = f"nothing: the first start compiles them, some {FIRST_START_S} s for the built-in views"
        return Finding("compiled programs", "warn", f"not yet: {found}", "compiled before", remedy)
    return Finding("compiled programs", "ok", found)


def check_port(config: Config) -> Finding:
    """Whether the daemon could listen where it is told to, or which daemon does."""
    from engine.serving.security import check_address

    host, port = config.server.host, config.server.port
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        check_address(config.server)
    except EngineError as error:
        return Finding("port", "fail", str(error), "an address that is allowed", 'server.host = "127.0.0.1"')
    if port == 0:
        return Finding("port", "ok", f"{host}, any that is free")
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            tried.listen(1)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return Finding(
                "port",
                "fail",
                f"{where}: {error.strerror}",
                "a port that can be listened on",
                f"{PREFIX}SERVER__PORT=8421",
            )
        return _holder(where)
    return Finding("port", "ok", f"{where} is free")


def _holder(where: str) -> Finding:
    """Say who listens there already."""
    client = Client(f"http://{where}", timeout_s=0.5)
    try:
        health = client.health()
    except TokenWantedError:
        return Finding("port", "ok", f"{where}: a tickfold serves there that wants its token")
    except ServiceError:
        return Finding(
            "port",
            "fail",
            f"{where} is held by another program",
            "a free port",
            f"{PREFIX}SERVER__PORT=8421, or stop that program",
        )
    finally:
        client.close()
    return Finding(
        "port",
        "ok",
        f"{where}: tickfold {health.version} serves there, {health.status}, at sequence {health.live_sequence:,}",
    )


def check_token(config: Config, folder: DataFolder) -> Finding:
    """Whether the token is there for us alone, or will be made."""
    from engine.serving.security import read_token

    path = Path(config.server.token_file) if config.server.token_file else folder.token
    if not path.exists():
        return Finding("token", "ok", f"{path}: made at the first start, mode 0600")
    try:
        read_token(path)
    except EngineError as error:
        return Finding(
            "token",
            "fail",
            str(error),
            "a file of mode 0600 that holds a token",
            f"chmod 600 {path}, or delete it for a new one",
        )
    return Finding("token", "ok", f"{path}, mode 0600")


def check_page() -> Finding:
    """Whether the page has its charts from the wheel, or draws by itself."""
    from engine.serving.page import find_uplot

    chart, why_not = find_uplot()
    if chart is None:
        return Finding(
            "page",
            "warn",
            f"no uPlot: {why_not}",
            "uPlot 1.6.18 from its wheel",
            "make install; without it the page draws by itself, without zoom",
        )
    return Finding("page", "ok", f"uPlot 1.6.18, {len(chart):,} bytes, its checksum is right")


def check_data(folder: DataFolder) -> Finding:
    """What the data folder holds, and whether a daemon has it."""
    from store.segment import list_segments
    from store.snapshot import snapshots

    if not folder.exists():
        return Finding("journal", "ok", f"none yet in {folder.path}")
    segments = list_segments(folder.journal)
    size = sum(path.stat().st_blocks * 512 for path in segments)
    said = [
        f"{len(segments)} segments from sequence {int(segments[0].stem):,}, {size >> 20:,} MiB" if segments else "empty"
    ]
    bad: list[str] = []
    found = snapshots(folder.snapshots, bad.append)
    if found:
        newest = found[0].head
        when = datetime.fromtimestamp(newest.created // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        said.append(f"{len(found)} snapshots, the newest at {newest.sequence:,} of {when} UTC")
    else:
        said.append("no snapshot")
    holder = holder_of(folder.path / "lock")
    if holder is not None:
        said.append(f"in use by process {holder}")
    elif (sequence := _stopped_at(folder)) is not None:
        said.append(f"stopped at {sequence:,}")
    if bad:
        return Finding(
            "journal",
            "warn",
            f"{'; '.join(said)}; {bad[0]}",
            "snapshots that can be read",
            "`tickfold verify` checks the folder; a start passes over it",
        )
    return Finding("journal", "ok", "; ".join(said))


def journal_bytes(folder: DataFolder) -> int:
    """What the journal takes on disk."""
    from store.segment import list_segments

    return sum(path.stat().st_blocks * 512 for path in list_segments(folder.journal))


def holder_of(lock: Path) -> str | None:
    """Return the process that holds a lock file, None if nobody does. Takes no lock where the system tells it without."""
    try:
        with lock.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            try:
                locks = Path("/proc/locks").read_text(encoding="ascii")
                is_held = any(
                    line.split()[1] == "FLOCK" and line.split()[5].endswith(f":{inode}") for line in locks.splitlines()
                )
            except (OSError, IndexError):
                is_held = _cannot_lock(file.fileno())
            return (file.read(32).decode("ascii", "replace").strip() or "unknown") if is_held else None
    except FileNotFoundError:
        return None


def _cannot_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _stopped_at(folder: DataFolder) -> int | None:
    """The sequence at which the last daemon stopped by itself."""
    try:
        sequence = msgspec.json.decode(folder.digest.read_bytes())["sequence"]
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return None
    return sequence if isinstance(sequence, int) else None


def _listed(names: list[str]) -> str:
    """Names with commas between them, not too many."""
    if not names:
        return "nothing"
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
