"""The model as MLflow runs it: this file goes into each logged model as its code, and reads the state beside it.

Rows in (a DataFrame, or a list of dicts or of lists), columns by the names of the features, in any order. Rows out: a column of
probabilities for each class and the likeliest `class`, or a column `value`; NaN and no class for a row that holds a number that is not
finite, and while the model has learned nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from engine.errors import ModelError
from engine.tracking.state import KeptModel, ask


class TickfoldModel(PythonModel):  # type: ignore[misc]  # MLflow is an extra, which the types are checked without
    """One logged model of tickfold."""

    def load_context(self, context: Any) -> None:
        """Read the state. Raises ModelError for a pickle, unless model_config={"allow_pickle": True} or the environment allows it."""
        wanted = bool((context.model_config or {}).get("allow_pickle", False))
        self.kept = KeptModel.read(Path(context.artifacts["tickfold"]))
        self.model = self.kept.model(allow_pickle=wanted)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return one row for each row of features. Raises ModelError naming features that are missing."""
        rows = self._rows(model_input)
        said = ask(self.model, self.kept, rows)
        if not self.kept.classes:
            names = ["value"] if self.kept.outputs == 1 else [f"value_{at}" for at in range(self.kept.outputs)]
            return pd.DataFrame(said, columns=names)
        answer = pd.DataFrame(said, columns=list(self.kept.classes))
        # The first of equals, as in the engine.
        answer["class"] = [None if np.isnan(one).any() else self.kept.classes[int(np.argmax(one))] for one in said]
        return answer

    def _rows(self, given: Any) -> npt.NDArray[np.float64]:
        names = list(self.kept.features)
        if isinstance(given, list) and given and isinstance(given[0], dict):
            given = pd.DataFrame(given)
        if isinstance(given, pd.DataFrame):
            if missing := [name for name in names if name not in given.columns]:
                raise ModelError(f"features {', '.join(missing)} are missing; expected {', '.join(names)}")
            given = given[names].to_numpy(dtype=np.float64)
        rows = np.atleast_2d(np.asarray(given, dtype=np.float64))
        if rows.shape[1] != len(names):
            raise ModelError(f"rows of {rows.shape[1]} numbers; expected {len(names)}: {', '.join(names)}")
        return rows


set_model(TickfoldModel())
