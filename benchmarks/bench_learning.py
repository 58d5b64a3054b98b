"""Learning at each tick: compiled learners and River's models, alone and inside the fold, beside River alone in the same run.

The model predicts whether the price will be higher a hundred trades later, from twelve features, at each trade, and learns each row
when its outcome is known. Inside the fold that is all of it: the ledger, verification, baselines, scores, intervals, evidence, drift.
What the model costs there is what the fold takes with it less what the same fold takes without, repetition by repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Case, Line, Run, Timing, require, require_close
from benchmarks.overheard import Asked
from benchmarks.synthetic import BATCH_ROWS, EXCHANGE, SYMBOL, MemorySource, Ticks, walk
from engine.block import Keys
from engine.config import Config
from engine.fold import Fold
from engine.models import build
from engine.models.arm import Batch
from engine.models.compiled import make_compiled_arm
from engine.models.layout import LABEL, SLOT, STEP, UPTO, Layout
from engine.models.settings import ModelConfig
from engine.models.spec import ModelSpec, resolve_model
from replay.driver import build_fold, drive
from store.builtin import resolve

ON_TICKS = ("market", "technical", "derived")
FEATURES = (
    "market:side", "technical:rsi_14", "technical:rsi_21", "technical:rsi_50", "technical:macd", "technical:macd_histogram",
    "derived:price_change_1m", "derived:price_change_5m", "derived:volume_ratio", "derived:volatility_index",
    "derived:trade_imbalance_1m", "technical:macd_signal",
)  # fmt: skip
HORIZON = 100  # trades
BLOCK = 512
WARM = 1_000  # ticks folded before the clock runs: models are built, and their memory is measured often at first
NAME = "bench"
LR = 0.005
LOGISTIC = {"algorithm": "scaled_logistic", "lr": LR}
SOFTMAX = {"algorithm": "scaled_softmax", "lr": LR}
LINEAR = {"algorithm": "scaled_linear", "optimizer": "nlms", "lr": 0.002}
OVERHEARD = {"factory": f"{Path(__file__).with_name('overheard.py')}:Overheard"}
RIVERS: Mapping[str, Mapping[str, Any]] = {
    "scaled logistic regression": {
        "river": [
            {"river": "preprocessing.StandardScaler"},
            {"river": "linear_model.LogisticRegression", "optimizer": {"river": "optim.SGD", "lr": LR}},
        ]
    },
    "Hoeffding tree": {"river": "tree.HoeffdingTreeClassifier"},
}


def spec_of(algorithm: Mapping[str, Any], target: str = "up_down") -> ModelSpec:
    config = ModelConfig(
        features=FEATURES, algorithm=dict(algorithm), target=target, horizon=f"{HORIZON}t", place="loop"
    )
    return resolve_model(NAME, config)


# -- inside the fold


class Folded:
    """A fold of the views on trades, with a model or without, that nobody listens to; each repetition has one of its own."""

    def __init__(self, ticks: Ticks, model: ModelSpec | None, *, is_live: bool = False) -> None:
        self.ticks, self.model, self.is_live = ticks, model, is_live
        whole = ticks.block(Keys())
        self.warm, rest = whole.take(slice(0, WARM)), whole.take(slice(WARM, len(ticks)))
        size = 1 if is_live else BATCH_ROWS
        self.blocks = [rest.take(slice(first, first + size)) for first in range(0, len(rest), size)]
        self.fold: Fold | None = None

    @property
    def rows(self) -> int:
        """Ticks that are folded while the clock runs."""
        return len(self.ticks) - WARM

    def prepare(self) -> Run:
        models = () if self.model is None else (self.model,)
        fold = self.fold = build_fold(Config(), [], views=resolve(ON_TICKS), models=models)
        drive(fold, [MemorySource([self.warm])])
        source, push, blocks = MemorySource(self.blocks), fold.push, self.blocks
        if not self.is_live:
            return lambda: drive(fold, [source])

        def run() -> None:
            for block in blocks:
                push(block)

        return run

    def check(self) -> None:
        """All was folded, and almost all was predicted, came true and was learned from."""
        assert self.fold is not None
        require(self.fold.folded == len(self.ticks), f"{self.fold.folded} ticks were folded, not {len(self.ticks)}")
        if self.fold.models is not None:
            standing = self.fold.models.standings()[0]
            least = 0.9 * len(self.ticks) - HORIZON
            require(standing.predictions > least, f"{standing.predictions} predictions, expected more than {least}")
            require(standing.outcomes > least, f"{standing.outcomes} outcomes, expected more than {least}")

    def arm(self) -> Any:
        """Return the model's arm, after a run."""
        assert self.fold is not None
        assert self.fold.models is not None
        return self.fold.models.arm(NAME, EXCHANGE, SYMBOL, "1")


# -- alone


def asked_of(ticks: Ticks) -> Asked:
    """Return what the fold asks of a River model over these ticks, in order."""
    folded = Folded(ticks, spec_of(OVERHEARD))
    folded.prepare()()
    folded.check()
    asked: Asked = folded.arm().model.asked
    return asked


class Alone:
    """A model with River's methods, in a loop; the first `warm` questions before the clock runs."""

    def __init__(self, make: Callable[[], Any], asked: Asked, warm: int) -> None:
        self.make, self.warm, self.asked = make, asked[:warm], asked[warm:]
        self.model: Any = None

    def prepare(self) -> Run:
        model = self.model = self.make()
        predict, learn = model.predict_proba_one, model.learn_one

        def run(asked: Asked) -> None:
            for x, y in asked:
                if y is None:
                    predict(x)
                else:
                    learn(x, y)

        run(self.warm)
        return lambda: run(self.asked)


class Arms:
    """The compiled arm without an actor: batches that lie in memory, rows and labels drawn, each learned a hundred rows later."""

    def __init__(self, algorithm: Mapping[str, Any], outputs: int, count: int, block: int) -> None:
        rng = np.random.default_rng(1)
        self.algorithm, self.outputs = algorithm, outputs
        self.layout = Layout(len(FEATURES), outputs, 0, 1)
        ledger = np.zeros((1 << 10, self.layout.width))
        begin = self.layout.x_at
        ledger[:, begin : begin + len(FEATURES)] = rng.standard_normal((len(ledger), len(FEATURES)))
        ledger[:, LABEL] = rng.integers(0, outputs, len(ledger))
        ids = ledger.view(np.int64)
        self.batches = []
        for first in range(0, count, block):
            steps = np.zeros((min(block, count - first), STEP), np.int64)
            at = np.arange(first, first + len(steps))
            steps[:, SLOT] = at % len(ledger)
            due = at[at >= HORIZON]
            steps[:, UPTO] = np.cumsum(at >= HORIZON)
            self.batches.append(Batch(self.layout, ledger, ids, steps, (due - HORIZON) % len(ledger)))

    def prepare(self) -> Run:
        arm = make_compiled_arm(self.algorithm, self.layout, self.outputs, True)
        out_at, batches = self.layout.out_at(0), self.batches

        def run() -> None:
            for batch in batches:
                arm.run(batch, out_at, 0)

        return run


# -- the benchmark


def check_outputs(ticks: Ticks, asked: Asked) -> None:
    """Compare the compiled learner with River, the fold with the model alone, blocks with one tick at a time."""
    ours, theirs = build(LOGISTIC), build(RIVERS["scaled logistic regression"])
    said = []
    for x, y in asked:
        if y is None:
            said.append((ours.predict_proba_one(x)[True], theirs.predict_proba_one(x)[True]))
        else:
            ours.learn_one(x, y)
            theirs.learn_one(x, y)
    columns = np.array(said)
    require(len(columns) > 0.9 * len(ticks), f"{len(columns)} predictions were asked for over {len(ticks)} ticks")
    require_close("probability beside River", columns[:, 0], columns[:, 1], absolute=1e-9)
    bits = ours.arrays()["state"].tobytes()
    for is_live in (False, True):
        folded = Folded(ticks, spec_of(LOGISTIC), is_live=is_live)
        folded.prepare()()
        folded.check()
        same = folded.arm().arrays()["state"].tobytes() == bits
        require(same, f"{'one tick a push' if is_live else 'blocks'}: the arm's state is not that of the model alone")
    for name, river in RIVERS.items():
        alone, folded = Alone(lambda river=river: build(river), asked, 0), Folded(ticks, spec_of(river))  # type: ignore[misc]
        alone.prepare()()
        folded.prepare()()
        last = asked[-1][0]
        found, expected = folded.arm().model.predict_proba_one(last), alone.model.predict_proba_one(last)
        require(found == expected, f"{name}: the fold's model says {found}, the model alone {expected}")


def less(name: str, whole: list[Timing], part: list[Timing], at_most: float | None = None) -> Line:
    """Return what `whole` takes beyond `part`, ns CPU a tick, repetition by repetition."""
    values = [a.cpu_ns - b.cpu_ns for a, b in zip(whole, part, strict=True)]
    walls = [a.wall_ns - b.wall_ns for a, b in zip(whole, part, strict=True)]
    line = Line(name, "ns CPU a tick", values, walls, per_second=True)
    if at_most is not None:
        line.wanted, line.met = f"at most {at_most:,.0f}", float(np.median(values)) <= at_most
    return line


def over(name: str, whole: list[Timing], part: list[Timing], alone: list[Timing], at_most: float = 1.1) -> Line:
    """Return how many times what a model takes alone it takes inside the fold."""
    values = [(a.cpu_ns - b.cpu_ns) / c.cpu_ns for a, b, c in zip(whole, part, alone, strict=True)]
    return Line(
        name, "times River alone", values, wanted=f"at most {at_most:g}", met=float(np.median(values)) <= at_most
    )


def main() -> int:
    options = harness.arguments(__doc__)
    count, few, repetitions = (50_000, 4_000, 3) if options.quick else (200_000, 20_000, 21)
    report = harness.Report(
        "bench_learning",
        f"Predict and learn at each tick, twelve features, a horizon of {HORIZON} trades: {count:,} ticks in blocks, {few:,} one by one "
        "and for River; one symbol, one thread.",
        options,
    )
    ticks = walk(count)
    start = ticks.head(few)
    asked = asked_of(start)
    warm = len(asked_of(start.head(WARM)))
    harness.say("comparing outputs")
    check_outputs(start, asked)

    folds = {
        "blocks": Folded(ticks, None),
        "blocks, logistic": Folded(ticks, spec_of(LOGISTIC)),
        "blocks, softmax": Folded(ticks, spec_of(SOFTMAX, "direction")),
        "blocks, linear": Folded(ticks, spec_of(LINEAR, "log_return")),
        "one by one": Folded(start, None, is_live=True),
        "one by one, logistic": Folded(start, spec_of(LOGISTIC), is_live=True),
        "few in blocks": Folded(start, None),
    }
    cases = [
        Case("compiled, arm alone, blocks", count, Arms(LOGISTIC, 2, count, BLOCK).prepare),
        Case("compiled, arm alone, one row a call", few, Arms(LOGISTIC, 2, few, 1).prepare),
        Case("compiled, softmax arm alone, blocks", count, Arms(SOFTMAX, 3, count, BLOCK).prepare),
        Case("compiled, by dict", few - WARM, Alone(lambda: build(LOGISTIC), asked, warm).prepare),
    ]
    for name, river in RIVERS.items():
        cases.append(Case(f"{name} alone", few - WARM, Alone(lambda river=river: build(river), asked, warm).prepare))  # type: ignore[misc]
        folds[f"few in blocks, {name}"] = Folded(start, spec_of(river))
        folds[f"one by one, {name}"] = Folded(start, spec_of(river), is_live=True)
    cases += [Case(name, folded.rows, folded.prepare, folded.check) for name, folded in folds.items()]
    found = harness.interleaved(cases, repetitions)

    logistic = "scaled logistic regression"
    alone = found[f"{logistic} alone"]
    report.add(
        harness.rate_line(f"River alone: {logistic}, predict + learn", alone),
        harness.rate_line("compiled: the same by dict, from Python", found["compiled, by dict"]),
        harness.rate_line(f"compiled: its arm, blocks of {BLOCK}", found["compiled, arm alone, blocks"]),
        harness.rate_line("compiled: its arm, one row a call", found["compiled, arm alone, one row a call"]),
        harness.rate_line(
            f"compiled: arm of a softmax of three, blocks of {BLOCK}", found["compiled, softmax arm alone, blocks"]
        ),
        less(
            "in the fold, blocks: compiled logistic with its ledger",
            found["blocks, logistic"],
            found["blocks"],
            1_000.0,
        ),
        less(
            "in the fold, blocks: compiled softmax of three with its ledger", found["blocks, softmax"], found["blocks"]
        ),
        less("in the fold, blocks: compiled linear (nlms) with its ledger", found["blocks, linear"], found["blocks"]),
        less(
            "in the fold, one tick a push: compiled logistic with its ledger",
            found["one by one, logistic"],
            found["one by one"],
            4_000.0,
        ),
    )
    for name in RIVERS:
        if name != logistic:
            report.add(harness.rate_line(f"River alone: {name}, predict + learn", found[f"{name} alone"]))
        report.add(
            less(f"in the fold, blocks: River's {name}", found[f"few in blocks, {name}"], found["few in blocks"]),
            over(
                "the same beside River alone",
                found[f"few in blocks, {name}"],
                found["few in blocks"],
                found[f"{name} alone"],
            ),
            less(f"in the fold, one tick a push: River's {name}", found[f"one by one, {name}"], found["one by one"]),
            over(
                "the same beside River alone", found[f"one by one, {name}"], found["one by one"], found[f"{name} alone"]
            ),
        )
    report.add(
        harness.ratio_line(
            "compiled in the fold, blocks, beside River alone", alone, _less(found["blocks, logistic"], found["blocks"])
        ),
        harness.rate_line("the fold without a model, blocks", found["blocks"]),
        harness.rate_line("the fold without a model, one tick a push", found["one by one"]),
    )
    report.note(
        "River alone: a loop over dicts that are there already, the same rows in the same order as the fold asks them."
    )
    report.note(
        f"The first {WARM:,} ticks are folded, and what they bring is learned, before the clock runs: building a model is left out."
    )
    report.note("compiled, its arm: rows and labels in a ledger in memory, nothing else of the fold.")
    report.note(
        "in the fold: what it takes with the model less what it takes without; nobody listens to predictions, no digests."
    )
    return report.finish()


def _less(whole: list[Timing], part: list[Timing]) -> list[Timing]:
    return [Timing(a.cpu_ns - b.cpu_ns, a.wall_ns - b.wall_ns) for a, b in zip(whole, part, strict=True)]


if __name__ == "__main__":
    harness.run(main)
