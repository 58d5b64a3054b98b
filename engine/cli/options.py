"""What the verbs share: options and how they are read, the configuration, the sources, the strategies."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine.config import Config
    from replay.driver import Selection
    from replay.sources import Source

DONE, CHECK_FAILED, WRONG_INPUT, SERVICE_DOWN, INTERRUPTED = 0, 1, 2, 3, 130
NS_PER_S = 1_000_000_000
DATE_DIGITS = 8  # so many digits are a date, such as 20240808, and not nanoseconds

Verbs: TypeAlias = "argparse._SubParsersAction[Any]"


def add_verb(
    verbs: Verbs, name: str, action: Callable[[argparse.Namespace], int], summary: str, prints: bool = True
) -> argparse.ArgumentParser:
    """Add a verb with the options that all have; return its parser."""
    made: argparse.ArgumentParser = verbs.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + "."
    )
    made.set_defaults(action=action)
    made.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration (default: config.toml if there is one)"
    )
    made.add_argument("-v", "--verbose", action="store_true", help="log everything, and show tracebacks")
    if prints:
        made.add_argument("--json", action="store_true", help="print one JSON document")
    return made


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add what of the sources is folded."""
    parser.add_argument(
        "--from", dest="start", type=time_ns, metavar="T", help="first `received` to fold: ISO 8601 (UTC) or ns"
    )
    parser.add_argument("--to", dest="stop", type=time_ns, metavar="T", help="first `received` not to fold")
    parser.add_argument(
        "--symbols", type=words, default=(), metavar="A,B", help="only these: BTC/USDT, or binance:BTC/USDT"
    )


def read_config(options: argparse.Namespace) -> Config:
    """Return the configuration as the command line and the environment resolve it."""
    from engine.config import load

    path = options.config
    if path is None and Path("config.toml").is_file():
        path = Path("config.toml")
    return load(path, os.environ)


def open_sources(paths: Sequence[Path]) -> list[Source]:
    """Return the recordings at these paths; none means the built-in one."""
    from replay.sources import BUILT_IN, open_source

    return [open_source(path) for path in paths or [BUILT_IN]]


def load_strategies(config: Config) -> list[Any]:
    """Return the configured strategies, new. Raises ConfigError or StrategyError for what cannot be loaded."""
    from strategies import load

    known = set(config.strategies.run)
    if unknown := sorted(set(config.strategies.parameters) - known - {Path(name).stem for name in known}):
        raise ConfigError(
            f"strategies.parameters.{unknown[0]}: no such strategy in strategies.run, which has {', '.join(sorted(known)) or 'none'}"
        )
    parameters = config.strategies.parameters
    return [load(name, parameters.get(name, parameters.get(Path(name).stem))) for name in config.strategies.run]


def selection_of(options: argparse.Namespace) -> Selection:
    """Return what of the sources the options choose."""
    from replay.driver import Selection

    return Selection(options.start, options.stop, options.symbols, getattr(options, "until_sequence", None))


def speed(text: str) -> float | None:
    """Read "max" (None) or a number above 0."""
    if text == "max":
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f'{text!r}: expected "max" or a number above 0')
    return number


def positive(text: str) -> int:
    """Read a whole number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 on")
    return int(text)


def time_ns(text: str) -> int:
    """Read ISO 8601 (UTC where no offset is given; up to nine digits of a second) or int ns."""
    if text.lstrip("-").isdigit() and len(text) != DATE_DIGITS:
        return int(text)
    fraction = re.search(r"[.,](\d{1,9})(?!\d)", text)
    try:
        found = datetime.fromisoformat(text.replace(fraction[0], "") if fraction else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected ISO 8601, such as 2024-08-08T23:55:00Z, or ns") from error
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return int(found.timestamp()) * NS_PER_S + (int(fraction[1].ljust(9, "0")) if fraction else 0)


def words(text: str) -> tuple[str, ...]:
    """Read words with commas between them."""
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    if not found:
        raise argparse.ArgumentTypeError("expected symbols with commas between them, such as BTC/USDT,ETH/USDT")
    return found
