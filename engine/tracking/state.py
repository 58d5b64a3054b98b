"""A model as files: what it is as JSON, what it has learned as npz. A River object can only be a pickle, which is refused by default.

model.json    names and order of its features, classes, target, horizon, algorithm, versions, and the hash of the file beside it
state.npz     arrays of a compiled model: read with pickle refused
state.pickle  a River object: whoever loads it runs what is in it
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from engine.errors import ModelError

FORMAT = 1
DESCRIPTION, ARRAYS, PICKLE = "model.json", "state.npz", "state.pickle"


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in model.json."""

    format: int
    kind: str  # "compiled" or "river"
    algorithm: dict[str, Any]
    features: tuple[str, ...]
    classes: tuple[str, ...]  # names, in the order of the outputs; empty of a regression
    outputs: int
    target: str
    horizon: str
    schema_hash: str
    tickfold: str
    river: str
    sha256: str  # of the state's file


@dataclass(frozen=True)
class KeptModel:
    """A model's state, and what is needed to ask it. Exactly one of `arrays` and `pickled` is there."""

    features: tuple[str, ...]
    algorithm: dict[str, Any]
    outputs: int = 1
    classes: tuple[str, ...] = ()
    target: str = ""
    horizon: str = ""
    arrays: Mapping[str, npt.NDArray[Any]] | None = field(default=None, repr=False)
    pickled: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.features:
            raise ModelError("a model to be kept: expected the names of its features, in its order")
        if self.classes and len(self.classes) != self.outputs:
            raise ModelError(f"a model to be kept: {len(self.classes)} classes, expected its {self.outputs} outputs")
        if (self.arrays is None) == (self.pickled is None):
            raise ModelError("a model to be kept: expected either arrays or a pickle")

    @property
    def schema_hash(self) -> str:
        """Hash of what goes in and comes out."""
        return schema_hash(self.features, self.classes, self.target, self.horizon)

    def state(self) -> tuple[str, bytes]:
        """Return the name and the content of the state's file."""
        if self.pickled is not None:
            return PICKLE, self.pickled
        return ARRAYS, to_npz(self.arrays or {})

    def describe(self, state: bytes) -> Description:
        """Return what model.json says beside `state`."""
        return Description(
            format=FORMAT,
            kind="compiled" if self.pickled is None else "river",
            algorithm=self.algorithm,
            features=self.features,
            classes=self.classes,
            outputs=self.outputs,
            target=self.target,
            horizon=self.horizon,
            schema_hash=self.schema_hash,
            tickfold=version("tickfold"),
            river=version("river"),
            sha256=hashlib.sha256(state).hexdigest(),
        )

    def write(self, folder: Path) -> Description:
        """Write the files into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        name, state = self.state()
        described = self.describe(state)
        (folder / name).write_bytes(state)
        (folder / DESCRIPTION).write_bytes(msgspec.json.format(msgspec.json.encode(described)) + b"\n")
        return described

    @classmethod
    def read(cls, folder: Path) -> KeptModel:
        """Read what `write` wrote; a pickle is read as bytes, and not loaded. Raises ModelError if it is not whole."""
        described = read_description(folder)
        name = ARRAYS if described.kind == "compiled" else PICKLE
        try:
            state = (folder / name).read_bytes()
        except OSError as error:
            raise ModelError(f"{folder / name}: {error.strerror}") from error
        if (found := hashlib.sha256(state).hexdigest()) != described.sha256:
            raise ModelError(f"{folder / name}: its hash is {found}, expected {described.sha256}")
        is_compiled = described.kind == "compiled"
        return cls(
            features=described.features,
            algorithm=described.algorithm,
            outputs=described.outputs,
            classes=described.classes,
            target=described.target,
            horizon=described.horizon,
            arrays=of_npz(state, str(folder / name)) if is_compiled else None,
            pickled=None if is_compiled else state,
        )

    def model(self, *, allow_pickle: bool = False) -> Any:
        """Return the model: a CompiledModel, or the River object. Raises ModelError for a pickle that is not allowed, or does not load."""
        if self.pickled is None:
            from engine.models.compiled import CompiledModel

            return CompiledModel.of(self.algorithm, self.features, self.outputs, dict(self.arrays or {}))
        if not may_load_pickle(allow_pickle):
            raise ModelError(
                "this model is a pickled River object, and loading it runs what is in it: if you trust where it comes from, "
                "say allow_pickle=True (of a pyfunc: model_config), and leave MLFLOW_ALLOW_PICKLE_DESERIALIZATION alone"
            )
        try:
            return pickle.loads(self.pickled)
        except Exception as error:
            raise ModelError(
                f"the pickled model does not load here ({type(error).__name__}: {error}); "
                f"expected the version of River that made it, here is {version('river')}"
            ) from error


def may_load_pickle(allow_pickle: bool) -> bool:
    """Whether a pickle may be loaded: never where MLflow was told not to, whatever else is said."""
    refused = os.environ.get("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true").lower() in ("false", "0")
    return allow_pickle and not refused


def schema_hash(features: Sequence[str], classes: Sequence[str], target: str, horizon: str) -> str:
    """Return a hash of what a model takes and says: two versions with one hash can stand in for each other."""
    text = msgspec.json.encode([list(features), list(classes), target, horizon])
    return hashlib.sha256(text).hexdigest()[:16]


def read_description(folder: Path) -> Description:
    """Read model.json. Raises ModelError naming what is wrong with it."""
    path = folder / DESCRIPTION
    try:
        described = msgspec.json.decode(path.read_bytes(), type=Description)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ModelError(f"{path}: {error}") from error
    if described.format != FORMAT or described.kind not in ("compiled", "river"):
        raise ModelError(
            f"{path}: format {described.format}, kind {described.kind!r}; expected format {FORMAT}, compiled or river"
        )
    return described


def to_npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return arrays as npz: the same bytes for the same arrays."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def of_npz(data: bytes, where: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an npz; no object in it is loaded. Raises ModelError for what is none."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # numpy and zipfile raise many kinds
        raise ModelError(f"{where}: not arrays that can be read without pickle: {error}") from error


def ask(model: Any, kept: KeptModel, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a model's outputs for rows x features: probabilities by class, or one value; NaN for a row that is not finite.

    A River object is asked as the engine's own arm asks it.
    """
    say = model.predict_row if kept.pickled is None else _river_sayer(model, kept)
    said = np.full((len(rows), kept.outputs), math.nan)
    for at, row in enumerate(rows):
        if np.isfinite(row).all():  # as in the engine: no number that is not finite reaches a model
            said[at] = say(row)
    return said


def _river_sayer(model: Any, kept: KeptModel) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """Return what asks a River object: an arm over a ledger of one row, with nothing to learn from."""
    from engine.models.arm import Batch
    from engine.models.layout import STEP, Layout
    from engine.models.river_arm import CLASSIFIER, DETECTOR, REGRESSOR, RiverArm
    from engine.models.river_role import role_of
    from engine.models.river_rows import LedgerRows

    if role_of(model, "a kept model") == DETECTOR:  # which the arm would also teach the row
        return lambda row: np.array([model.score_one(dict(zip(kept.features, row.tolist(), strict=True)))])
    layout = Layout(len(kept.features), kept.outputs, 0, 1)
    arm = RiverArm(
        model, CLASSIFIER if kept.classes else REGRESSOR, LedgerRows(kept.features, layout, bool(kept.classes))
    )
    ledger = np.full((1, layout.width), math.nan)
    steps, answers = np.zeros((1, STEP), np.int64), np.empty(0, np.int64)
    batch = Batch(layout, ledger, ledger.view(np.int64), steps, answers)
    out_at = layout.out_at(0)

    def say(row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        ledger[0, layout.x_at : layout.x_at + layout.features] = row
        if failures := arm.run(batch, out_at, 0):
            arm.resume()
            raise ModelError(f"the model failed to predict: {failures[0].error}")
        return ledger[0, out_at : out_at + layout.outputs].copy()

    return say
