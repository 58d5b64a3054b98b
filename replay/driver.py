"""Drives recorded inputs through the fold, and builds that fold out of a configuration.

Live and replay differ by who calls `Fold.push`. Here it is a merge of recordings, as fast as it goes or at a multiple of the pace at
which they were received.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.block import Block, Keys
from engine.config import Config
from engine.errors import ConfigError, ReplayError
from engine.events import Key
from engine.fold import Fold
from engine.ingress import Ingress
from engine.models.kernels import compiling_beside
from engine.models.spec import ModelSpec, resolve_models
from engine.plugin import import_file
from replay.merge import merge
from replay.sources import Source
from replay.working import Working, working
from store.builtin import builtin_views, resolve
from store.expression import parse
from store.layout import STAMPS
from store.program import Program, program_of
from store.ring import OnlineStore
from store.schema import FeatureView

if TYPE_CHECKING:
    from engine.models.stage import ModelStage

PACED_SLICE_NS = 20_000_000  # of wall time: how finely a paced replay is cut


def views_of(config: Config) -> tuple[FeatureView, ...]:
    """Return the views that a configuration asks for: built in or defined in it. Raises ConfigError for any that cannot be."""
    defined = {
        name: FeatureView(
            name,
            {
                feature: parse(text, f"features.define.{name}.features.{feature}")
                for feature, text in view.features.items()
            },
            clock=view.clock,
            version=view.version,
            description=view.description,
        )
        for name, view in config.features.define.items()
    }
    if taken := sorted(set(defined) & set(builtin_views())):
        raise ConfigError(f"features.define.{taken[0]}: that name is a built-in view's")
    views: list[str | FeatureView] = []
    for name in config.features.views:
        path, separator, wanted = name.partition(":")
        if path.endswith(".py"):
            views += _views_in(Path(path), wanted if separator else None)
        elif name in defined or name in builtin_views():
            views.append(defined.get(name, name))
        else:
            known = (*builtin_views(), *defined)
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"features.views: {name!r}: expected one of {', '.join(known)}, or the path of a .py file{hint}"
            )
    return resolve(views)


def _views_in(path: Path, wanted: str | None) -> list[FeatureView]:
    """Return the feature views that a Python file defines, or the one of that name."""
    found = [
        value
        for value in vars(import_file(path, ConfigError, "features.views:")).values()
        if isinstance(value, FeatureView)
    ]
    if wanted is not None:
        found = [view for view in found if view.name == wanted]
    if not found:
        raise ConfigError(
            f"features.views: {path}: expected a FeatureView{f' named {wanted}' if wanted else ''}, found none"
        )
    return found


def build_fold(
    config: Config,
    strategies: Sequence[Any],
    *,
    views: tuple[FeatureView, ...] | None = None,
    keys: Keys | None = None,
    digests: bool = False,
    report: Callable[[Any], None] | None = None,
    rows: Callable[[str, Key, npt.NDArray[np.int64], npt.NDArray[np.float64]], None] | None = None,
    begins: bool = True,
    models: Sequence[ModelSpec] | None = None,
) -> Fold:
    """Return a fold of the configured views, models and these strategies, started and ready for its first input.

    models: those to run instead of the configured ones.
    Without `begins` its strategies are not started: it is going to become what a snapshot was taken of.

    Raises ConfigError for a strategy that subscribes to a view that is not computed.
    """
    program = program_of(views_of(config) if views is None else views)
    store = OnlineStore(
        program,
        keep=config.store.ring_rows,
        block_rows=config.store.block_rows,
        window_ticks_max=config.features.window_ticks_max,
    )
    specs = resolve_models(config.models, program.places) if models is None else models
    if specs:
        _check_models(specs, program)
    with compiling_beside(specs):
        program.block  # noqa: B018 - compiles now, so that the first input does not wait for it
        ingress = Ingress(max_ahead_ns=config.ingress.max_ahead_ns, not_contiguous=config.ingress.not_contiguous)
    fold = Fold(
        ingress, store, keys=keys, models=_stage(config, program, specs), bus_limit=config.engine.bus_limit, digests=digests,
        report=report, rows=rows,
    )  # fmt: skip
    for strategy in strategies:
        for topic in strategy.subscribes:
            if isinstance(topic, str) and topic not in store.views:
                raise ConfigError(
                    f"strategy {strategy.name} subscribes to {topic!r}; views that are computed: {', '.join(store.views)}"
                )
        strategy.enter(fold, store, config.engine.seed)
        strategy.snapshot()  # a State that cannot be kept is heard of now, and not at the end
        fold.add(strategy)
    if begins:
        fold.start()
    return fold


def _check_models(specs: Sequence[ModelSpec], program: Program) -> None:
    """Raise ConfigError or ModelError for models that cannot be: before anything is compiled, which takes time."""
    from engine.models.build import check_algorithms
    from engine.models.stage import where_of

    for spec in specs:
        where_of(spec, program.places, STAMPS)
        check_algorithms(spec)


def _stage(config: Config, program: Program, specs: Sequence[ModelSpec]) -> ModelStage | None:
    """Return the models' stage of a fold, None where no model runs."""
    if not specs:
        return None
    from engine.models.build import make_arm
    from engine.models.stage import ModelStage

    return ModelStage(
        specs, config.models, places=program.places, stamps=STAMPS, seed=config.engine.seed, make=make_arm
    )


@dataclass(frozen=True)
class Selection:
    """Which inputs of the sources are folded: `start` <= received < `stop`, symbols, and up to a sequence number."""

    start: int | None = None
    stop: int | None = None
    symbols: tuple[str, ...] = ()
    until_sequence: int | None = (
        None  # a gap and the trade behind it are folded together, and what workers answer to that
    )

    @property
    def is_whole(self) -> bool:
        """Whether all symbols and times are wanted."""
        return self.start is None and self.stop is None and not self.symbols

    def apply(self, block: Block, keys: Keys) -> Block:
        """Return the rows of a block that are selected."""
        wanted = np.ones(len(block), bool)
        if self.start is not None:
            wanted &= block.received >= self.start
        if self.stop is not None:
            wanted &= block.received < self.stop
        if self.symbols:
            codes = [code for code in range(len(keys)) if {keys[code][1], ":".join(keys[code])} & set(self.symbols)]
            wanted &= np.isin(block.key, codes)
        return block if wanted.all() else block.take(wanted)


def drive(
    fold: Fold,
    sources: Sequence[Source],
    selection: Selection | None = None,
    *,
    pace: Callable[[int], None] | None = None,
    speed: float = 1.0,
    progress: Callable[[int], None] | None = None,
    workers: Working | None = None,
) -> None:
    """Fold all that is selected of the sources.

    workers: of models in worker processes; None: where there are such, they have some of their own, which end with this. pace: given the `received` (ns) of the next input, waits until it is its turn; None folds as fast as it goes. speed: only cuts the
    blocks of a paced replay finely enough. progress: hears how many rows were folded or passed over since it last heard.
    Raises ReplayError if symbols were asked for that the sources do not hold, ModelError if worker processes give up.
    """
    if workers is None:
        with working(fold) as own:
            _drive(fold, sources, selection or Selection(), pace, speed, progress, own)
    else:
        _drive(fold, sources, selection or Selection(), pace, speed, progress, workers)


def _drive(
    fold: Fold,
    sources: Sequence[Source],
    selection: Selection,
    pace: Callable[[int], None] | None,
    speed: float,
    progress: Callable[[int], None] | None,
    workers: Working | None,
) -> None:
    latest = int(np.iinfo(np.int64).min)
    for block in merge([source.blocks(fold.keys) for source in sources]):
        chosen = selection.apply(block, fold.keys)
        for part in _parts(chosen, None if pace is None else max(1, int(PACED_SLICE_NS * speed))):
            if pace is not None:
                latest = max(latest, int(part.received[0]))
                pace(latest)
            if not _push(fold, part, selection.until_sequence, workers):
                return
            if progress is not None:
                progress(len(part))
        if progress is not None:
            progress(len(block) - len(chosen))
    _check_symbols(fold.keys, selection.symbols)


def _parts(block: Block, slice_ns: int | None) -> Iterator[Block]:
    """Cut a block where `slice_ns` of received time have passed; nothing of an empty one."""
    if slice_ns is None or not len(block):
        yield from [block] if len(block) else []
        return
    ticks = np.maximum.accumulate(block.received) // slice_ns
    edges = [0, *(np.flatnonzero(np.diff(ticks)) + 1).tolist(), len(block)]
    for first, end in itertools.pairwise(edges):
        yield block.take(slice(first, end))


def _push(fold: Fold, block: Block, until: int | None, workers: Working | None) -> bool:
    """Fold a block, not beyond a sequence number; return whether to go on."""
    push = fold.push if workers is None else workers.push
    if until is None:
        push(block)
        return True
    done = 0
    while done < len(block):
        left = until - fold.ingress.next_sequence + 1
        if left <= 0:
            return False
        # A row may take two numbers, its gap's and its own; where workers answer, theirs too.
        count = max(1, left // 2) if workers is None else 1
        push(block.take(slice(done, done + count)))
        done += count
    return True


def _check_symbols(keys: Keys, symbols: tuple[str, ...]) -> None:
    found = {name for code in range(len(keys)) for name in (keys[code][1], ":".join(keys[code]))}
    if missing := [symbol for symbol in symbols if symbol not in found]:
        held = ", ".join(sorted({keys[code][1] for code in range(len(keys))})) or "none"
        raise ReplayError(f"symbols {', '.join(missing)}: not in the sources, which hold {held}")
