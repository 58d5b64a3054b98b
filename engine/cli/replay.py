"""`tickfold replay`: recorded inputs through the fold, as fast as it goes or at a multiple of their pace."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.options import (
    DONE,
    NS_PER_S,
    Verbs,
    add_selection,
    add_verb,
    load_strategies,
    open_sources,
    positive,
    read_config,
    selection_of,
    speed,
)
from engine.errors import ReplayError

if TYPE_CHECKING:
    from engine.config import Config
    from engine.fold import Fold
    from replay.sources import Source

PACED_ROWS = 64
"""Inputs between two waits of a paced replay of a journal."""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    replay = add_verb(
        verbs, "replay", fold_sources, "fold recorded ticks as fast as it goes, or at a multiple of their pace"
    )
    replay.add_argument(
        "sources",
        nargs="*",
        type=Path,
        metavar="SOURCE",
        help="Parquet ticks or quotes, a capture (.jsonl, .jsonl.gz), or a daemon's data folder; none: the built-in recording",
    )
    add_selection(replay)
    replay.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="keep journal, snapshot and digests there, as a daemon that goes on from them",
    )
    replay.add_argument(
        "--speed", type=speed, default=None, metavar="X", help='"max" (default), or a multiple of the recorded pace'
    )
    replay.add_argument("--digest", action="store_true", help="print the digests: equal for equal inputs, on every run")
    replay.add_argument(
        "--until-sequence", type=positive, metavar="N", help="stop after the input with this sequence number"
    )


def fold_sources(options: argparse.Namespace) -> int:
    """Fold recorded inputs and print what came of it."""
    from engine.log import Reporter, configure
    from replay.driver import build_fold, drive
    from replay.sources import JournalSource, total_rows
    from replay.terminal import TerminalView

    config = read_config(options)
    sources = open_sources(options.sources)
    if any(isinstance(source, JournalSource) for source in sources) and selection_of(options).is_whole:
        return _fold_folder(options, config, sources)
    with_digest = options.digest or not options.sources or options.data is not None
    logger = configure(options.verbose)
    reporter = Reporter(logger, options.verbose)
    title = ", ".join(source.name for source in sources)
    view = TerminalView(title, lambda: total_rows(sources)) if _is_watched(options) else None
    if options.data is not None:
        import msgspec

        from engine.models.placing import place_models

        # Without a folder it does not matter where a model runs: the bits are the same, and the loop needs no decision.
        config = msgspec.structs.replace(config, models=place_models(config.models, options.data / "models"))
    strategies = load_strategies(config)
    fold = build_fold(config, strategies, digests=with_digest, report=view.hear if view else reporter)
    logger.info("online store", views=", ".join(fold.features.views), bytes_a_key=fold.features.memory_per_key())
    pace = _pacer(options.speed) if options.speed else None
    started = time.perf_counter()
    workers = None
    with contextlib.ExitStack() as stack:
        if options.data is not None:
            from engine.app.journaled import kept_in

            workers = stack.enter_context(kept_in(options.data, config, fold, strategies))
        if view:
            stack.enter_context(view).watch(fold)
        progress = view.advance if view else None
        drive(
            fold, sources, selection_of(options), pace=pace, speed=options.speed or 1.0, progress=progress, workers=workers
        )  # fmt: skip
        if options.data is None:
            fold.stop()  # in a data folder it has not ended: a daemon may go on
        if view:
            view.finish()
    _print_result(options, config, sources, fold, time.perf_counter() - started, with_digest)
    return DONE


def _fold_folder(options: argparse.Namespace, config: Config, sources: list[Source]) -> int:
    """Fold a daemon's journal again: the inputs as they were numbered then, by the configuration that was in force."""
    from engine.log import Reporter, configure
    from replay.history import fold_journal, landmarks, past
    from replay.sources import JournalSource
    from replay.terminal import TerminalView
    from store.segment_reader import CHUNK_RECORDS

    source = sources[0]
    if len(sources) > 1 or not isinstance(source, JournalSource):
        raise ReplayError(
            f"{', '.join(one.name for one in sources)}: expected a data folder by itself, or recorded files only; with --symbols, --from "
            "or --to the trades and quotes of a folder can be merged with others"
        )
    folder = source.folder
    if options.data is not None:
        raise ReplayError(
            f"--data {options.data}: expected recorded files; a data folder is folded from where it is (with --symbols, --from or --to "
            "its trades and quotes are taken into another)"
        )
    marks = landmarks(folder, options.until_sequence)
    if options.until_sequence is not None and options.until_sequence > marks.last:
        print(f"{folder.path} ends at sequence {marks.last:,}", file=sys.stderr)
    logger = configure(options.verbose)
    view = TerminalView(folder.path.name, lambda: marks.last) if _is_watched(options) else None
    known = past(
        folder, marks, marks.last, config, load_strategies,
        use_journaled=options.config is None, report=view.hear if view else Reporter(logger, options.verbose),
    )  # fmt: skip
    fold, found = known.fold, known.found
    pace = _pacer(options.speed) if options.speed else None
    started = time.perf_counter()
    reached = found.after
    with view or contextlib.nullcontext():
        if view:
            view.watch(fold)
        for sequence in fold_journal(
            fold, folder.journal, until=marks.last, pace=pace, rows=PACED_ROWS if pace else CHUNK_RECORDS
        ):
            if view:
                view.advance(sequence - reached)
            reached = sequence
        if view:
            view.finish()
    if not known.is_as_recorded:
        print(
            "features or strategies are defined otherwise now than when this was recorded: the digests differ",
            file=sys.stderr,
        )
    if found.snapshot is not None:
        print(f"begun at the snapshot of sequence {found.after:,}: what lies before it is gone", file=sys.stderr)
    _print_result(options, known.config, sources, fold, time.perf_counter() - started, options.digest)
    return DONE


def _is_watched(options: argparse.Namespace) -> bool:
    from replay.terminal import TerminalView

    return TerminalView.is_wanted() and not options.json and not options.verbose


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
