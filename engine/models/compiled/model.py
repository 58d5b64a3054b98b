"""A compiled model by itself, with River's methods: `learn_one(x, y)`, `predict_one(x)`, `predict_proba_one(x)` on dicts.

It is what `build({"algorithm": ...})` gives, what `progressive` drives and what a tracking server keeps. Inside the fold the same
program runs as an arm, on rows; both give the same bits on the same rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.models.compiled.learner import Floats
from engine.models.compiled.program import program_of
from engine.models.compiled.registry import fitting, learner_of
from engine.models.compiled.state import LEARNED, grown_state, kept_of, new_state, restore_state

Label = bool | int | str


class CompiledModel:
    """One compiled learner with its state.

    `features` names the columns of a row, in order; None: the keys of the first dict, in its order. Later dicts must have all of them;
    what else is in them is passed over. `outputs` is how many classes there are; None: as many as there are labels, which are numbered
    as they appear. With `outputs` given the labels are 0, 1, ...; two classes of a learner that has no more are False and True (0 and 1
    are taken for them) unless the first label is a text.

    Raises ConfigError for an algorithm that is unknown or cannot say so many outputs.
    """

    def __init__(
        self,
        algorithm: Mapping[str, Any],
        features: Sequence[str] | None = None,
        outputs: int | None = None,
        seed: int = 0,
    ) -> None:
        self.algorithm = dict(algorithm)
        self.learner, self._parameters = learner_of(algorithm)
        if outputs is not None:
            fitting(algorithm, outputs, self.learner.is_class)
        self.outputs = self.learner.outputs_min if outputs is None else outputs
        self.seed = seed
        self._is_binary = self.learner.is_class and self.learner.outputs_max == 2
        # Labels in the order of their classes; None while they are numbered as they appear.
        self._fixed: tuple[Label, ...] | None = None
        if self._is_binary:
            self._fixed = (False, True)
        elif outputs is not None:
            self._fixed = tuple(range(outputs))
        self._seen: list[Label] = []
        self._program = program_of(self.learner)
        self.features: tuple[str, ...] | None = None
        self._state: Floats = np.empty(0)
        self._buffer: Floats = np.empty(0)
        self._pick: Callable[[Mapping[str, Any]], Any] | None = None
        if features is not None:
            self._begin(tuple(features))

    @classmethod
    def of(
        cls,
        algorithm: Mapping[str, Any],
        features: Sequence[str],
        outputs: int | None,
        arrays: Mapping[str, npt.NDArray[Any]],
        seed: int = 0,
    ) -> CompiledModel:
        """Return the model that `arrays` was made of, by `arrays()` of a model or of an arm.

        Raises ModelError if they do not fit the rest, or are damaged.
        """
        labels = arrays.get("labels")
        seen: list[Label] = []
        if labels is not None:
            try:
                seen = list(json.loads(labels.tobytes()))
            except (ValueError, TypeError) as error:
                raise ModelError(f"labels: expected a JSON list, found {labels.tobytes()[:60]!r}") from error
            model = cls(algorithm, None, None, seed)
            model.outputs = max(len(seen), model.outputs)
            model._fixed = None
            model._seen = seen
            model._begin(tuple(features))
        else:
            model = cls(algorithm, features, outputs, seed)
        restore_state(model.learner, model._state, arrays)
        return model

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Copy all that `of` needs: "state" (float64), and "labels" (uint8, JSON) where they are numbered as they appear.

        Raises ModelError if there is no state yet, because no row has said what the features are.
        """
        if self.features is None:
            raise ModelError(f"{self.learner.name}: there is nothing to keep before the first row names the features")
        found: dict[str, npt.NDArray[Any]] = {"state": kept_of(self.learner, self._state)}
        if self.learner.is_class and self._fixed is None:
            found["labels"] = np.frombuffer(json.dumps(self._seen).encode(), np.uint8).copy()
        return found

    @property
    def classes(self) -> tuple[Label, ...]:
        """Labels in the order of the outputs: of those that were seen where they are numbered as they appear; empty of a value."""
        if not self.learner.is_class:
            return ()
        return tuple(self._seen) if self._fixed is None else self._fixed

    @property
    def learned(self) -> int:
        """Rows that it has learned from."""
        return int(self._state[LEARNED]) if self.features is not None else 0

    @property
    def memory(self) -> int:
        """Bytes of the state."""
        return self._state.nbytes

    # Rows ---------------------------------------------------------------------------------------------------------------------

    def predict_row(self, row: npt.ArrayLike) -> Floats:
        """Return the outputs for a row (float64, one number a feature): probabilities, or one value; NaN if the row is not finite.

        Raises ModelError if the row has another length.
        """
        self._fill(row)
        self._program.predict_row(self._state, self._buffer)
        return self._buffer[len(self._buffer) - self.outputs :].copy()

    def learn_row(self, row: npt.ArrayLike, y: float) -> bool:
        """Learn that `row` became `y`: a class's number or a value. Returns False, and learns nothing, if one of them is not finite."""
        self._fill(row)
        return bool(self._program.learn_row(self._state, self._buffer, float(y)))

    # Dicts, as River ----------------------------------------------------------------------------------------------------------

    def learn_one(self, x: Mapping[str, Any], y: Any) -> None:
        """Learn that `x` became `y`. What is not finite is passed over. Raises ModelError for a feature that is missing or no number."""
        if not self.learner.is_class:
            self._fill_from(x)
            self._program.learn_row(self._state, self._buffer, float(y))
            return
        number = self._number_of(y)
        self._fill_from(x)
        self._program.learn_row(self._state, self._buffer, number)

    def predict_proba_one(self, x: Mapping[str, Any]) -> dict[Label, float]:
        """Return the probability of each label, as River does: none before a label was seen. Raises ModelError of a regression."""
        if not self.learner.is_class:
            raise ModelError(f"{self.learner.name} predicts a value: it has no probabilities")
        said = self._say(x)
        return dict(zip(self.classes, said, strict=False))

    def predict_one(self, x: Mapping[str, Any]) -> Any:
        """Return the likeliest label, the first of equals, or the value; None (a value: NaN) where the model can say nothing."""
        said = self._say(x)
        if not self.learner.is_class:
            return said[0]
        labels = self.classes
        said = said[: len(labels)]
        if not said or math.isnan(said[0]):
            return None
        return labels[said.index(max(said))]

    def _say(self, x: Mapping[str, Any]) -> list[float]:
        self._fill_from(x)
        self._program.predict_row(self._state, self._buffer)
        found: list[float] = self._buffer[len(self._buffer) - self.outputs :].tolist()
        return found

    # Inside -------------------------------------------------------------------------------------------------------------------

    def _begin(self, features: tuple[str, ...]) -> None:
        if not features or len(set(features)) != len(features):
            raise ModelError(f"{self.learner.name}: expected different features, at least one, found {features!r}")
        self.features = features
        self._state = new_state(self.learner, self._parameters, len(features), self.outputs, self.seed)
        self._buffer = np.zeros(len(features) + self.outputs)
        self._pick = itemgetter(*features)

    def _fill(self, row: npt.ArrayLike) -> None:
        values = np.asarray(row, np.float64)
        if self.features is None:
            raise ModelError(f"{self.learner.name}: expected the names of the features before the first row")
        if values.shape != (len(self.features),):
            raise ModelError(
                f"{self.learner.name}: expected a row of {len(self.features)} features, found shape {values.shape}"
            )
        self._buffer[: len(values)] = values

    def _fill_from(self, x: Mapping[str, Any]) -> None:
        if self._pick is None:
            self._begin(tuple(x))
        assert self._pick is not None
        assert self.features is not None
        try:
            self._buffer[: len(self.features)] = self._pick(x)
        except KeyError as error:
            raise ModelError(
                f"{self.learner.name}: the row has no feature {error.args[0]!r}; expected {', '.join(map(str, self.features))}"
            ) from None
        except (TypeError, ValueError) as error:
            raise ModelError(f"{self.learner.name}: expected numbers as features: {error}") from None

    def _number_of(self, y: Any) -> float:
        """Return the number of a label, a new one if it is new and may be."""
        label: Label = y.item() if isinstance(y, np.generic) else y
        if self._is_binary and self._fixed is not None and isinstance(label, str) and self.learned == 0:
            self._fixed = None  # texts have no order of their own
        if self._fixed is not None:
            if label in self._fixed:
                return float(self._fixed.index(label))
            raise ModelError(f"{self.learner.name}: label {label!r}: expected one of {self._fixed!r}")
        if label in self._seen:
            return float(self._seen.index(label))
        if len(self._seen) >= self.learner.outputs_max:
            raise ModelError(
                f"{self.learner.name}: label {label!r}: it has at most {self.learner.outputs_max} classes, {self._seen!r}"
            )
        if not isinstance(label, bool | int | str):
            raise ModelError(f"{self.learner.name}: label {label!r}: expected a bool, an int or a text")
        self._seen.append(label)
        if len(self._seen) > self.outputs:
            self.outputs = len(self._seen)
            if self.features is not None:
                self._state = grown_state(self.learner, self._parameters, self._state, self.outputs)
                self._buffer = np.zeros(len(self.features) + self.outputs)
        return float(len(self._seen) - 1)
