"""A River model, or any object with River's methods, as an arm: regression, classification, anomaly scores and clusters.

The arm hands rows to the model (`Rows`) and turns what it says into the ledger's numbers, by its role:

    classifier   probabilities in the order of the classes: 0 for one that the model did not name, divided by their sum where that is
                 not 1; of a classifier without probabilities 1 for the label that it predicts
    regressor    the value
    detector     the anomaly score of the row, before the row is learned from
    clusterer    the number of the row's cluster, before the row is learned from

Where the model says nothing (None, no class yet) the ledger gets NaN, and where what it says is no finite number too; the latter is
counted. What it raises is a `Failure`, SystemExit included; five in a row of one kind park the arm: it says NaN and learns nothing
until `resume`. A call that failed may have left the model between two states: River undoes nothing, and neither does the arm.
"""

from __future__ import annotations

import importlib.metadata
import math
import pickle
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.actor import FAILURES_IN_A_ROW
from engine.errors import ModelError
from engine.models.arm import Batch, Failure
from engine.models.layout import LABEL, SLOT, UPTO
from engine.models.river_rows import Rows

CLASSIFIER, REGRESSOR, DETECTOR, CLUSTERER = "classifier", "regressor", "detector", "clusterer"
LEARN, PREDICT = 0, 1
HANDLERS = ("learn", "predict")
SUM_TOLERANCE = 1e-9
"""Probabilities that add up to 1 so nearly are left as the model said them."""
WEIGH_FIRST = 256
"""Rows learned before a model's memory is measured again; later each time a quarter more have been: seldom, and at the same rows."""


Floats = Any  # a memoryview of float64


class RiverArm:
    """An `Arm` of a model with `learn_one` and `predict_proba_one`, `predict_one` or `score_one`, as its role asks.

    `definition` says what the model is made of: a snapshot of something else is refused. `heard(slot, said)` is told what the model
    itself said, before it becomes numbers: for who judges it in its own terms.
    """

    def __init__(
        self,
        model: Any,
        role: str,
        rows: Rows,
        definition: str = "",
        heard: Callable[[int, Any], None] | None = None,
    ) -> None:
        self.role = role
        self.parked = ""  # why it is heard no more; empty while it is
        self.learned = 0  # rows
        self.refused = 0  # predictions that were no finite numbers
        self._rows = rows
        self._definition = definition
        self._heard = heard
        self._in_a_row = [0, 0]  # failures to learn, and to predict
        self._is_failing = False  # whether any of them is not 0
        self._ledger: npt.NDArray[np.float64] | None = None  # of the newest batch
        self._floats: Floats = ()
        self._take(model)

    def _take(self, model: Any) -> None:
        """Bind the model's methods once: to look them up at each row costs as much as a call."""
        self.model = model
        self._learn: Callable[..., Any] = model.learn_one
        self._proba: Callable[[Any], Any] | None = None
        self._predict: Callable[[Any], Any] | None = getattr(model, "predict_one", None)
        if self.role == CLASSIFIER:
            self._proba = getattr(model, "predict_proba_one", None)
        elif self.role == DETECTOR:
            self._predict = model.score_one
        self._weigh()

    # The loop -----------------------------------------------------------------------------------------------------------------

    def run(self, batch: Batch, out_at: int, first: int) -> list[Failure]:
        """Do the steps from `first` on, as `Arm.run` says. What needs no label learns from each row right after its prediction."""
        if batch.ledger is not self._ledger:
            self._ledger, self._floats = batch.ledger, floats_of(batch.ledger)
        ledger, width, outputs = self._floats, batch.ledger.shape[1], batch.layout.outputs
        answers: list[int] = batch.answers.tolist()
        steps: list[list[int]] = batch.steps.tolist()
        is_supervised = self.role in (CLASSIFIER, REGRESSOR)
        say = self._say_classes if self.role == CLASSIFIER else self._say_value
        learn, features, target = self._learn, self._rows.x, self._rows.y
        failures: list[Failure] = []
        done = steps[first - 1][UPTO] if first else 0
        for at in range(first, len(steps)):
            step = steps[at]
            upto = step[UPTO] if is_supervised else 0
            while done < upto:
                slot = answers[done]
                done += 1
                row = slot * width
                label = ledger[row + LABEL]
                if label != label or self.parked:  # noqa: PLR0124  NaN, at each row
                    continue
                try:
                    learn(features(ledger, slot, row), target(slot, label))
                    self._has_learned()
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    failures.append(self._fail(at, LEARN, error))
            slot = step[SLOT]
            if slot < 0:
                continue
            row = slot * width
            if self.parked:
                self._say_nothing(ledger, row + out_at, outputs)
                continue
            try:
                say(ledger, row + out_at, outputs, slot, features(ledger, slot, row))
                if self._is_failing:
                    self._succeed(PREDICT)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._say_nothing(ledger, row + out_at, outputs)
                failures.append(self._fail(at, PREDICT, error))
            if is_supervised or self.parked:
                continue
            try:
                learn(features(ledger, slot, row))
                self._has_learned()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                failures.append(self._fail(at, LEARN, error))
        return failures

    def _has_learned(self) -> None:
        self.learned = learned = self.learned + 1
        if self._is_failing:
            self._succeed(LEARN)
        if learned >= self._weigh_at:
            self._weigh()

    def _say_nothing(self, ledger: Floats, at: int, outputs: int) -> None:
        for out in range(at, at + outputs):
            ledger[out] = math.nan

    def _say_classes(self, ledger: Floats, at: int, outputs: int, slot: int, x: Any) -> None:
        if self._proba is None:
            said = self._one_hot(x)
        else:
            try:
                said = self._proba(x)
            except NotImplementedError:  # how River's base class says that there are only labels
                self._proba = None
                said = self._one_hot(x)
        if self._heard is not None:
            self._heard(slot, said)
        if not said:
            self._say_nothing(ledger, at, outputs)
            return
        classes = self._rows.classes
        out, total, lowest = at, 0.0, 0.0
        for label in classes:
            value = said.get(label, 0.0)
            ledger[out] = value
            out += 1
            total += value
            lowest = min(lowest, value)
        if lowest == 0.0 and -SUM_TOLERANCE <= total - 1.0 <= SUM_TOLERANCE:
            return
        # A label without a column takes its share as well.
        total += sum(value for label, value in said.items() if label not in classes)
        if lowest < 0.0 or not math.isfinite(total):
            self._say_nothing(ledger, at, outputs)
            self.refused += 1
        elif abs(total - 1.0) > SUM_TOLERANCE:
            for out in range(at, at + outputs):
                ledger[out] = ledger[out] / total if total > 0.0 else 1.0 / outputs

    def _one_hot(self, x: Any) -> dict[Any, float]:
        assert self._predict is not None
        label = self._predict(x)
        return {} if label is None else {label: 1.0}

    def _say_value(self, ledger: Floats, at: int, outputs: int, slot: int, x: Any) -> None:
        assert self._predict is not None
        said = self._predict(x)
        if self._heard is not None:
            self._heard(slot, said)
        value = math.nan
        if said is not None:
            value = float(said)
            if not math.isfinite(value):
                value = math.nan
                self.refused += 1
        ledger[at] = value

    # Failures -----------------------------------------------------------------------------------------------------------------

    def _succeed(self, handler: int) -> None:
        self._in_a_row[handler] = 0
        self._is_failing = any(self._in_a_row)

    def _fail(self, step: int, handler: int, error: BaseException) -> Failure:
        self._in_a_row[handler] += 1
        self._is_failing = True
        said = traceback.format_exception_only(error)[-1].strip()  # survives an error that cannot be printed
        if self._in_a_row[handler] >= FAILURES_IN_A_ROW:
            self.parked = f"{FAILURES_IN_A_ROW} failures in a row, the last in {HANDLERS[handler]}: {said}"
        text = "".join(traceback.format_exception(error))
        return Failure(step, HANDLERS[handler], said, text, self._in_a_row[handler])

    def resume(self) -> None:
        """Hear a parked model again."""
        self.parked = ""
        self._in_a_row, self._is_failing = [0, 0], False

    # State --------------------------------------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Copy all that a restart must know: "pickle" and, as bytes, "river" (its version), "definition" and "parked"; "counts" (int64).

        Raises ModelError if the model cannot be pickled.
        """
        counts = np.array([self.learned, self.refused, *self._in_a_row], np.int64)
        return {
            "pickle": np.frombuffer(pickled(self.model), np.uint8).copy(),
            "river": _bytes(river_version()),
            "definition": _bytes(self._definition),
            "parked": _bytes(self.parked),
            "counts": counts,
        }

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become what `arrays` was made of. Only arrays of our own folder may come here: a pickle runs what is in it.

        Raises ModelError for another model or another version of River, and for a pickle that cannot be read.
        """
        try:
            version, definition, parked = (
                arrays[name].tobytes().decode() for name in ("river", "definition", "parked")
            )
            learned, refused, *in_a_row = (int(count) for count in arrays["counts"])
            kept = arrays["pickle"].tobytes()
        except (KeyError, ValueError) as error:
            raise ModelError(
                f"a River model's state: expected {', '.join(self.arrays())}, found {sorted(arrays)}"
            ) from error
        if version != river_version():
            raise ModelError(
                f"a model of River {version} does not load in River {river_version()}: it is rebuilt from the journal"
            )
        if definition != self._definition:
            raise ModelError(f"a River model's state: expected one of {self._definition}, found {definition}")
        try:
            model = pickle.loads(kept)
        except Exception as error:
            raise ModelError(f"a River model's pickle cannot be read: {type(error).__name__}: {error}") from error
        self.learned, self.refused, self._in_a_row, self.parked = learned, refused, in_a_row, parked
        self._is_failing = any(in_a_row)
        self._take(model)

    @property
    def memory(self) -> int:
        """Bytes that the model took, about, when it was last measured."""
        return self._memory

    def _weigh(self) -> None:
        self._weigh_at = max(self.learned + WEIGH_FIRST, self.learned * 5 // 4)
        self._memory = weigh(self.model)


def floats_of(ledger: npt.NDArray[np.float64]) -> Floats:
    """Return a ledger's floats, one after the other, for a third of what indexing an array costs. The ledger is C-contiguous."""
    flat: Any = memoryview(ledger.reshape(-1))  # type: ignore[arg-type]  # numpy's arrays are buffers
    return flat


def weigh(model: Any) -> int:
    """Return the bytes that a model takes, about: by River's own count, else the length of its pickle; 0 if there is neither."""
    try:
        found = getattr(model, "_raw_memory_usage", None)
        return int(found) if found is not None else len(pickled(model))
    except Exception:
        return 0


def pickled(model: Any) -> bytes:
    """Return a model's pickle. Raises ModelError if it has none: it holds a lambda, an open file, a class of a function's inside."""
    try:
        return pickle.dumps(model, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise ModelError(
            f"the model cannot be pickled, so no snapshot could keep it: {type(error).__name__}: {error}"
        ) from error


@cache
def river_version() -> str:
    """Return the version of River that is installed, without importing it."""
    return importlib.metadata.version("river")


def _bytes(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8).copy()
