"""The command line: `tickfold VERB`. Imports what a verb needs when it runs, so that `--help` is fast.

stdout holds the result (one JSON document with --json), stderr the log and the live view.
Exit codes: 0 done, 1 the check failed, 2 usage, configuration or input error, 3 a needed service is down, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from engine.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from engine.config import Config
    from engine.fold import Fold
    from replay.driver import Selection
    from replay.sources import Source

DONE, CHECK_FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
NS_PER_S = 1_000_000_000
DATE_DIGITS = 8  # so many digits are a date, such as 20240808, and not nanoseconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.verb is None:
        parser.print_help(sys.stderr)
        return WRONG_INPUT
    verb: Callable[[argparse.Namespace], int] = options.action
    try:
        return verb(options)
    except EngineError as error:
        _explain(error, options.verbose)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return DONE if options.verb == "run" else INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        print(f"tickfold {options.verb}: a defect of tickfold: {type(error).__name__}: {error}", file=sys.stderr)
        print("run it again with -v for the traceback", file=sys.stderr)
        if options.verbose:
            traceback.print_exception(error)
        return CHECK_FAILED


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the whole usage is what --help is for."""

    def error(self, message: str) -> NoReturn:
        """Say it, and exit with the code of a wrong input."""
        self.exit(WRONG_INPUT, f"{self.prog}: {message} ({self.prog} --help explains it)\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = Parser(
        prog="tickfold",
        description="Folds an ordered stream of market ticks into features and signals: live and replay give the same bits.",
        epilog="First steps: `tickfold replay` folds the built-in recording; `tickfold VERB --help` explains a verb.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")

    def verb(
        name: str, action: Callable[[argparse.Namespace], int], summary: str, prints: bool = True
    ) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        made.set_defaults(action=action)
        made.add_argument(
            "--config", type=Path, metavar="FILE", help="configuration (default: config.toml if there is one)"
        )
        made.add_argument("-v", "--verbose", action="store_true", help="log everything, and show tracebacks")
        if prints:
            made.add_argument("--json", action="store_true", help="print one JSON document")
        return made

    verb("run", run, "fold the built-in recording with a live view (the daemon is to come)")

    replay = verb("replay", run_replay, "fold recorded ticks as fast as it goes, or at a multiple of their pace")
    replay.add_argument(
        "sources",
        nargs="*",
        type=Path,
        metavar="SOURCE",
        help="Parquet ticks or quotes, or a capture (.jsonl, .jsonl.gz); none: the built-in recording",
    )
    _add_selection(replay)
    replay.add_argument(
        "--speed", type=_speed, default=None, metavar="X", help='"max" (default), or a multiple of the recorded pace'
    )
    replay.add_argument("--digest", action="store_true", help="print the digests: equal for equal inputs, on every run")
    replay.add_argument(
        "--until-sequence", type=int, metavar="N", help="stop after the input with this sequence number"
    )

    audit = verb(
        "audit", run_audit, "prove that nothing looks ahead: features and signals do not change when the future does"
    )
    audit.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="Parquet ticks or quotes, or a capture")
    _add_selection(audit)
    audit.add_argument(
        "--cuts",
        type=int,
        default=20,
        metavar="N",
        help="random places at which past and future are parted (default: 20)",
    )
    audit.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the cuts and the perturbations (default: 0)"
    )

    verb("config", show_config, "print the configuration as it is resolved")
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="start", type=_time, metavar="T", help="first `received` to fold: ISO 8601 (UTC) or ns"
    )
    parser.add_argument("--to", dest="stop", type=_time, metavar="T", help="first `received` not to fold")
    parser.add_argument(
        "--symbols", type=_words, default=(), metavar="A,B", help="only these: BTC/USDT, or binance:BTC/USDT"
    )


# -- verbs


def run(options: argparse.Namespace) -> int:
    """Fold the built-in recording. SIGTERM ends it as SIGINT does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options.sources, options.speed, options.digest = [], None, True
    options.start = options.stop = options.until_sequence = None
    options.symbols = ()
    return run_replay(options)


def run_replay(options: argparse.Namespace) -> int:
    """Fold recorded inputs and print what came of it."""
    from engine.log import Reporter, configure
    from replay.driver import build_fold, drive
    from replay.sources import total_rows
    from replay.terminal import TerminalView

    config = _config(options)
    sources = _sources(options.sources)
    with_digest = options.digest or not options.sources
    logger = configure(options.verbose)
    reporter = Reporter(logger, options.verbose)
    title = ", ".join(source.name for source in sources)
    view = (
        TerminalView(title, lambda: total_rows(sources))
        if TerminalView.is_wanted() and not options.json and not options.verbose
        else None
    )
    fold = build_fold(config, _strategies(config), digests=with_digest, report=view.hear if view else reporter)
    logger.info("online store", views=", ".join(fold.features.views), bytes_a_key=fold.features.memory_per_key())
    pace = _pacer(options.speed) if options.speed else None
    started = time.perf_counter()
    if view:
        with view:
            view.watch(fold)
            drive(fold, sources, _selection(options), pace=pace, speed=options.speed or 1.0, progress=view.advance)
            fold.stop()
            view.finish()
    else:
        drive(fold, sources, _selection(options), pace=pace, speed=options.speed or 1.0)
        fold.stop()
    _print_result(options, config, sources, fold, time.perf_counter() - started, with_digest)
    return DONE


def run_audit(options: argparse.Namespace) -> int:
    """Prove that the past does not know the future."""
    from replay.audit import audit_fold
    from replay.terminal import progress_bar

    config = _config(options)
    with progress_bar("audit", options.cuts) as progress:
        result = audit_fold(
            config,
            lambda: _strategies(config),
            lambda: _sources(options.sources),
            _selection(options),
            cuts=options.cuts,
            seed=options.seed,
            progress=progress,
        )
    if options.json:
        print(json.dumps(result.to_builtins()))
    else:
        print(result.text())
    return DONE if result.passed else CHECK_FAILED


def show_config(options: argparse.Namespace) -> int:
    """Print the resolved configuration."""
    import msgspec

    from engine.config import to_toml

    config = _config(options)
    print(msgspec.json.encode(config).decode() if options.json else to_toml(config), end="\n" if options.json else "")
    return DONE


# -- what the verbs share


def _config(options: argparse.Namespace) -> Config:
    from engine.config import load

    path = options.config
    if path is None and Path("config.toml").is_file():
        path = Path("config.toml")
    return load(path, os.environ)


def _sources(paths: Sequence[Path]) -> list[Source]:
    from replay.sources import BUILT_IN, open_source

    return [open_source(path) for path in paths or [BUILT_IN]]


def _strategies(config: Config) -> list[Any]:
    from strategies import load

    known = set(config.strategies.run)
    if unknown := sorted(set(config.strategies.parameters) - known - {Path(name).stem for name in known}):
        raise ConfigError(
            f"strategies.parameters.{unknown[0]}: no such strategy in strategies.run, which has {', '.join(sorted(known)) or 'none'}"
        )
    parameters = config.strategies.parameters
    return [load(name, parameters.get(name, parameters.get(Path(name).stem))) for name in config.strategies.run]


def _selection(options: argparse.Namespace) -> Selection:
    from replay.driver import Selection

    return Selection(options.start, options.stop, options.symbols, getattr(options, "until_sequence", None))


def _print_result(
    options: argparse.Namespace, config: Config, sources: list[Source], fold: Fold, seconds: float, with_digest: bool
) -> None:
    sequence = fold.ingress.next_sequence - 1
    result: dict[str, Any] = {"inputs": fold.folded, "sequence": sequence}
    if with_digest:
        result["digest"] = fold.digest()
    if options.json:
        print(json.dumps(result))
        return
    from engine.ingress import DUPLICATE, OUTCOMES

    counts = fold.ingress.counts.sum(axis=0)
    shown = ", ".join(f"{int(count):,} {name}" for name, count in zip(OUTCOMES, counts, strict=True) if count)
    shown += f", {fold.gaps:,} gaps in the trade ids" if fold.gaps else ""
    print(
        f"{fold.folded:,} inputs of {int(fold.ingress.counts.any(axis=1).sum())} keys in {seconds:.2f} s ({fold.folded / max(seconds, 1e-9):,.0f}/s): {shown}"
    )
    refused = int(counts[DUPLICATE + 1 :].sum())
    if forgotten := fold.ingress.forgotten():
        print(
            f"{forgotten:,} ranges of missing trade ids were forgotten: later trades of those count as duplicates",
            file=sys.stderr,
        )
    if refused:
        print(f"{refused:,} rows were refused; -v shows why", file=sys.stderr)
    views = ", ".join(fold.features.views)
    print(
        f"{fold.signals:,} signals of {', '.join(config.strategies.run) or 'no strategy'}; views {views}; {fold.features.memory() / 1e6:.1f} MB"
    )
    for source in sources:
        for note in source.notes():
            print(note, file=sys.stderr)
    if with_digest:
        for name, value in result["digest"].items():
            print(f"{name:<12}{value}")
    for supervised in fold.supervisor.actors.values():
        if supervised.failed:
            state = "parked" if not supervised.listening else "running"
            print(f"strategy {supervised.name} failed {supervised.failed} times and is {state}", file=sys.stderr)


def _pacer(speed: float) -> Callable[[int], None]:
    """Return what waits until an input's turn has come at `speed` times the recorded pace."""
    begun: list[float] = []

    def wait(received: int) -> None:
        if not begun:
            begun.extend((time.monotonic(), received / NS_PER_S))
        due = begun[0] + (received / NS_PER_S - begun[1]) / speed
        time.sleep(max(0.0, due - time.monotonic()))

    return wait


def _explain(error: EngineError, verbose: bool) -> None:
    print(f"tickfold: {error}", file=sys.stderr)
    if verbose:
        traceback.print_exception(error)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f'{text!r}: expected "max" or a number above 0')
    return speed


def _time(text: str) -> int:
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


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise argparse.ArgumentTypeError("expected symbols with commas between them, such as BTC/USDT,ETH/USDT")
    return words


if __name__ == "__main__":
    sys.exit(main())
