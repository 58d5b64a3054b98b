"""The loop of progressive validation: an arm over a ledger whose rows keep, beside them, what the model takes (`StreamRows`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.models.arm import Batch
from engine.models.layout import LABEL, SLOT, STEP, UPTO, Layout
from engine.models.prequential_blocks import Blocks
from engine.models.prequential_scores import ClassScores, ClusterScores, DetectorScores, ValueScores
from engine.models.river_arm import CLASSIFIER, CLUSTERER, DETECTOR, REGRESSOR, RiverArm
from engine.models.river_role import ANY, is_binary, role_of

BLOCK = 512
"""Rows that the arm is given at once, at most. The first blocks are shorter, so that the classes are soon known."""
CLASSES_MAX = 1_000
BASELINES = 2

Scores = ClassScores | ValueScores | DetectorScores | ClusterScores


class StreamRows:
    """Rows of a stream, by slot: any features and targets, as the stream gave them, and the labels of the classes met so far."""

    def __init__(self) -> None:
        self.xs: list[Any] = []
        self.ys: list[Any] = []
        self.classes: list[Any] = []  # as the model knows them

    def x(self, ledger: Any, slot: int, at: int) -> Any:
        """Return the features of a slot."""
        return self.xs[slot]

    def y(self, slot: int, label: float) -> Any:
        """Return the target of a slot, as the model knows it."""
        return self.ys[slot]


class Prequential:
    """One run of one model. Row number n lies in slot n mod capacity; the ledger grows with the rows that wait, and with the classes."""

    def __init__(self, model: Any, delay: int | None, blocks: Blocks | None = None) -> None:
        """`blocks` gathers the sums of the scores. Raises ModelError for a delay that is none, and a model that can do nothing."""
        if delay is not None and (isinstance(delay, bool) or not isinstance(delay, int) or delay < 0):
            raise ModelError(f"progressive: delay = {delay!r}: expected a number of rows, 0 or more")
        self.model = model
        self._role = role_of(model, "progressive")
        self._lag = max(delay or 0, 1)
        self._is_binary = is_binary(model)
        self._renames = False  # labels of a binary model that are neither False, True, 0 nor 1
        self._rows = StreamRows()
        self._numbers: dict[Hashable, int] = {}  # class of a label
        self._picks: list[int] = []  # by slot: the class that the model itself held likeliest, -1 if none
        self._unmet: dict[Hashable, None] = {}  # labels that the model named and the stream has not
        self._elsewhere: dict[int, float] = {}  # by slot: the sum of the squares of what it said of them
        self._layout = Layout(0, 1, BASELINES, 1)
        self._ledger = np.full((0, self._layout.width), np.nan)
        self._asked = self._answered = 0
        self._arm: RiverArm | None = None
        self._scores: Scores | None = None
        self._blocks = blocks

    def run(self, stream: Iterable[tuple[Any, Any]], on_rows: Callable[[int], None] | None = None) -> dict[str, Any]:
        """Go through a stream and return the scores, as `progressive` says."""
        rows = iter(stream)
        size = 1
        while read := [self._pair(self._asked + at, pair) for at, pair in enumerate(islice(rows, size))]:
            self._block(read)
            size = min(2 * size, BLOCK)
            if on_rows is not None:
                on_rows(self._asked)
        if self._scores is None:
            self._begin(None)
        self._finish()
        assert self._scores is not None
        return self._scores.report()

    # Blocks -------------------------------------------------------------------------------------------------------------------

    def _block(self, read: list[tuple[Any, Any]]) -> None:
        if self._arm is None:
            self._begin(read[0][1])
        arm, scores = self._arm, self._scores
        assert arm is not None
        assert scores is not None
        labels = [self._label_of(self._asked + at, y) for at, (_, y) in enumerate(read)]
        self._make_room(len(read))
        steps = np.zeros((len(read), STEP), np.int64)
        answers: list[int] = []
        ledger, capacity = self._ledger, len(self._ledger)
        is_supervised = self._role in (CLASSIFIER, REGRESSOR)
        base_at = self._layout.baselines_at
        for at, ((x, y), label) in enumerate(zip(read, labels, strict=True)):
            while is_supervised and self._answered + self._lag <= self._asked:
                answers.append(self._answer(scores))
            slot = self._asked % capacity
            self._rows.xs[slot], self._rows.ys[slot], self._picks[slot] = x, self._taught(y), -1
            ledger[slot] = np.nan
            ledger[slot, LABEL] = label
            ledger[slot, base_at : base_at + BASELINES] = scores.baselines()
            steps[at, SLOT], steps[at, UPTO] = slot, len(answers)
            self._asked += 1
        self._drive(arm, steps, answers)
        if not is_supervised:
            answers = [number % capacity for number in range(self._answered, self._asked)]
            self._answered = self._asked
        self._score(scores, answers)

    def _finish(self) -> None:
        """Learn and score what is left over."""
        if self._arm is None or self._scores is None:
            return
        answers = []
        while self._answered < self._asked:
            answers.append(self._answer(self._scores))
        steps = np.zeros((1, STEP), np.int64)
        steps[0, SLOT], steps[0, UPTO] = -1, len(answers)
        self._drive(self._arm, steps, answers)
        self._score(self._scores, answers)

    def _answer(self, scores: Scores) -> int:
        """Reveal the next label; return its slot."""
        slot = self._answered % len(self._ledger)
        self._answered += 1
        scores.reveal(self._ledger.item(slot, LABEL))
        return slot

    def _drive(self, arm: RiverArm, steps: npt.NDArray[np.int64], answers: list[int]) -> None:
        ledger = self._ledger
        batch = Batch(self._layout, ledger, ledger.view(np.int64), steps, np.array(answers, np.int64))
        for failure in arm.run(batch, self._layout.out_at(0), 0):
            row = self._asked - len(steps) + failure.step
            error = ModelError(f"progressive: the model failed to {failure.handler} at row {row}: {failure.error}")
            error.add_note(failure.traceback)
            raise error

    def _score(self, scores: Scores, answers: list[int]) -> None:
        first = self._layout.out_at(0)
        base_at, end = self._layout.baselines_at, first + self._layout.outputs
        positive = self._numbers.get(True, -1)
        for slot in answers:
            row = self._ledger[slot].tolist()
            target = self._rows.ys[slot]
            if isinstance(scores, ClassScores):
                bases, elsewhere = row[base_at : base_at + BASELINES], self._elsewhere.pop(slot, 0.0)
                pick = self._picks[slot]
                loss = scores.add(row[LABEL], row[first:end], pick, positive, bases, elsewhere)
                if self._blocks is not None:
                    self._blocks.heard(row[LABEL], pick, loss, is_class=True)
            elif isinstance(scores, ValueScores):
                loss = scores.add(row[LABEL], row[first], row[base_at : base_at + BASELINES])
                if self._blocks is not None:
                    self._blocks.heard(row[LABEL], row[first], loss, is_class=False)
            else:
                scores.add(row[first], target)
            self._rows.xs[slot] = self._rows.ys[slot] = None

    # Rows and classes ---------------------------------------------------------------------------------------------------------

    def _begin(self, target: Any) -> None:
        """Decide, at the first row, what is left open, and make the arm."""
        if self._role == ANY:
            is_label = isinstance(target, bool | str | np.bool_)
            self._role = CLUSTERER if target is None else CLASSIFIER if is_label else REGRESSOR
        if self._is_binary:
            self._rows.classes = [False, True]
            self._layout = Layout(0, 2, BASELINES, 1)
        kinds: Mapping[str, Callable[[], Scores]] = {
            CLASSIFIER: ClassScores,
            REGRESSOR: ValueScores,
            DETECTOR: DetectorScores,
            CLUSTERER: ClusterScores,
        }
        self._scores = kinds[self._role]()
        heard = self._hear if self._role == CLASSIFIER else None
        self._arm = RiverArm(self.model, self._role, self._rows, heard=heard)

    def _pair(self, row: int, pair: Any) -> tuple[Any, Any]:
        try:
            x, y = pair
        except (TypeError, ValueError):
            raise ModelError(
                f"progressive: row {row}: expected a pair (features, target), found {pair!r:.100}"
            ) from None
        # Before the next is read, for a stream may hand out the same dict again, changed.
        return (x.copy() if isinstance(x, dict) else x), y

    def _label_of(self, row: int, y: Any) -> float:
        """Return what goes into the ledger: the class's number, or the value; NaN for none."""
        if y is None or (isinstance(y, float) and math.isnan(y)):
            return math.nan
        try:
            if self._role == CLASSIFIER:
                number = self._numbers.get(y)
                return float(self._meet(y) if number is None else number)
            return float(y) if self._role == REGRESSOR else math.nan
        except (TypeError, ValueError) as error:
            raise ModelError(f"progressive: row {row}: target {y!r:.100}: {error}") from error

    def _taught(self, y: Any) -> Any:
        return self._rows.classes[self._numbers[y]] if self._renames and y is not None else y

    def _meet(self, label: Hashable) -> int:
        """Give a new label the next number. Raises ModelError if the model, or anybody, can have no more."""
        if self._is_binary and not self._numbers:
            # What is neither False nor True is no label of such a model: the first text met is its False, the second its True.
            self._renames = label not in (False, True)
            if not self._renames:
                self._numbers = {False: 0, True: 1}
                return self._numbers[label]
        number = len(self._numbers)
        if self._is_binary and number == 2:
            raise ModelError(
                f"progressive: label {label!r}: the model tells two classes apart, and {list(self._numbers)!r} were met; "
                "wrap it in multiclass.OneVsRestClassifier"
            )
        if number == CLASSES_MAX:
            raise ModelError(f"progressive: label {label!r}: more than {CLASSES_MAX} classes; is the target a value?")
        self._numbers[label] = number
        if not self._is_binary:
            self._rows.classes.append(label)
        return number

    def _hear(self, slot: int, said: Any) -> None:
        """Note which class the model itself takes: the first of the likeliest, in its own order."""
        if not said:
            return
        label = max(said, key=said.get)
        if self._is_binary:
            self._picks[slot] = int(bool(label))
            return
        for one, share in said.items():
            if one not in self._numbers:
                self._unmet[one] = None
                self._elsewhere[slot] = self._elsewhere.get(slot, 0.0) + share * share
        self._picks[slot] = self._numbers.get(label, CLASSES_MAX)  # of a label not met: a class that is surely wrong

    def _make_room(self, count: int) -> None:
        """Widen the ledger to the classes met, and lengthen it to hold `count` more rows beside those that wait."""
        for label in self._unmet:
            if label not in self._numbers:
                self._meet(label)
        self._unmet.clear()
        outputs = max(self._layout.outputs, len(self._rows.classes), 1)
        capacity = max(len(self._ledger), 1)
        while capacity < self._asked - self._answered + count:
            capacity *= 2
        if outputs == self._layout.outputs and capacity == len(self._ledger):
            return
        old, before, first = self._ledger, self._layout, self._layout.out_at(0)
        self._layout = Layout(0, outputs, BASELINES, 1)
        ledger = np.full((capacity, self._layout.width), np.nan)
        xs, ys, picks = [None] * capacity, [None] * capacity, [-1] * capacity
        elsewhere: dict[int, float] = {}
        for number in range(self._answered, self._asked):
            was, slot = number % len(old), number % capacity
            ledger[slot, : first + before.outputs] = old[was, : first + before.outputs]
            if not math.isnan(old.item(was, first)):
                ledger[slot, first + before.outputs : first + outputs] = (
                    0.0  # it said nothing of a class it did not know
                )
            xs[slot], ys[slot], picks[slot] = self._rows.xs[was], self._rows.ys[was], self._picks[was]
            if was in self._elsewhere:
                elsewhere[slot] = self._elsewhere[was]
        self._ledger, self._rows.xs, self._rows.ys, self._picks, self._elsewhere = ledger, xs, ys, picks, elsewhere
