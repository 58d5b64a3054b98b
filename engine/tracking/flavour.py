"""The MLflow flavour of tickfold's models: `save_model`, `log_model`, `load_model`, and a pyfunc for whatever serves MLflow models.

A model is kept as code of this package (models-from-code) with its state as JSON and npz: nothing of a compiled model is a pickle, and
it loads where MLflow refuses them. A River object is a pickle, which has to be allowed on both ways.

    import mlflow
    from engine.tracking import load_model, log_model

    with mlflow.start_run():
        info = log_model(model, classes=("down", "flat", "up"), horizon="60s")
    model = load_model(info.model_uri)
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ModelError
from engine.tracking.state import KeptModel

FLAVOUR = "tickfold"
CODE = Path(__file__).with_name("pyfunc_model.py")


def import_mlflow() -> Any:
    """Import MLflow with its telemetry off, and return it. Raises ModelError if it is not installed."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    try:
        import mlflow
        import mlflow.pyfunc
    except ImportError as error:
        raise ModelError(f"MLflow is not here ({error}); expected: pip install tickfold[mlflow]") from error
    return mlflow


def keep(
    model: Any,
    *,
    features: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    target: str = "",
    horizon: str = "",
    allow_pickle: bool = False,
) -> KeptModel:
    """Return a model's state as it is now.

    model: a CompiledModel, whose features are known once it has seen a row; or a River object, of which `features` are needed, and
    which learned labels False and True, or 0, 1, 2, ... in the order of `classes`.
    classes: their names; empty of a regression, and of a compiled model whose labels shall name them.
    Raises ModelError for a River object without `allow_pickle`, and for a model that lacks something.
    """
    if isinstance(model, KeptModel):
        return model
    from engine.models.compiled import CompiledModel

    if isinstance(model, CompiledModel):
        labels = tuple(str(label) for label in model.classes)
        numbered = tuple(str(number) for number in range(model.outputs)) if model.learner.is_class else ()
        return KeptModel(
            features=tuple(features or model.features or ()),
            algorithm=dict(model.algorithm),
            outputs=model.outputs,
            classes=tuple(classes) or (labels if len(labels) == model.outputs else numbered),
            target=target,
            horizon=horizon,
            arrays=model.arrays(),
        )
    if not allow_pickle:
        raise ModelError(
            f"{type(model).__name__} is kept as a pickle, which runs what is in it when it is loaded; expected allow_pickle=True"
        )
    from engine.models.river_arm import CLASSIFIER
    from engine.models.river_role import role_of

    if not classes and role_of(model, "a model to be kept") == CLASSIFIER:
        raise ModelError(f"{type(model).__name__}: expected the names of its classes, in the order of its labels")
    return KeptModel(
        features=tuple(features or ()),
        algorithm={"river": f"{type(model).__module__}.{type(model).__qualname__}"},
        outputs=len(classes) or 1,
        classes=tuple(classes),
        target=target,
        horizon=horizon,
        pickled=pickle.dumps(model),
    )


def save_model(
    model: Any,
    path: str | Path,
    *,
    features: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    target: str = "",
    horizon: str = "",
    allow_pickle: bool = False,
    input_example: Any = None,
    pip_requirements: Sequence[str] | None = None,
    mlflow_model: Any = None,
    metadata: Mapping[str, Any] | None = None,
    **_: Any,
) -> None:
    """Save a model (see `keep`) as an MLflow model into a folder that does not exist yet. Raises ModelError if it cannot be kept.

    input_example: rows by the names of the features; zeros if none is given. What else MLflow hands a flavour is of no use here.
    """
    mlflow = import_mlflow()
    from mlflow.models import Model

    kept = keep(model, features=features, classes=classes, target=target, horizon=horizon, allow_pickle=allow_pickle)
    into = Model() if mlflow_model is None else mlflow_model
    with tempfile.TemporaryDirectory(prefix="tickfold-") as folder:
        described = kept.write(Path(folder) / "state")
        into.add_flavor(
            FLAVOUR,
            tickfold_version=described.tickfold,
            river_version=described.river,
            schema_hash=described.schema_hash,
            features=list(described.features),
            classes=list(described.classes),
            target=described.target,
            horizon=described.horizon,
            kind=described.kind,
            algorithm=described.algorithm,
            state_sha256=described.sha256,
        )
        mlflow.pyfunc.save_model(
            str(path),
            python_model=str(CODE),
            artifacts={FLAVOUR: str(Path(folder) / "state")},
            mlflow_model=into,
            signature=_signature(kept),
            input_example=_example(kept, input_example),
            pip_requirements=list(pip_requirements or requirements(kept)),
            metadata=dict(metadata) if metadata else None,
            model_config={"allow_pickle": False},  # MLflow lets a loader set what is here already, and nothing else
        )


def log_model(
    model: Any,
    name: str = "model",
    *,
    registered_model_name: str | None = None,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    step: int = 0,
    **how: Any,
) -> Any:
    """Log a model to the active run, or to `run_id`; return MLflow's ModelInfo. `how` is what `save_model` takes."""
    import_mlflow()
    from mlflow.models import Model

    return Model.log(
        artifact_path=None,
        flavor=sys.modules[__name__],
        name=name,
        registered_model_name=registered_model_name,
        run_id=run_id,
        tags=dict(tags or {}),
        step=step,
        validate_serving_input=False,  # would load the model once more, pickles included, to say what is known here
        model=model,
        **how,
    )


def load_model(model_uri: str, *, allow_pickle: bool = False) -> Any:
    """Load what was saved or logged: a CompiledModel that goes on learning where it was, or a River object.

    model_uri: a path, "runs:/...", "models:/NAME@ALIAS", ... Raises ModelError for a pickle without `allow_pickle`, for a model of
    another flavour, and for files that are not what was written.
    """
    return load_kept(model_uri).model(allow_pickle=allow_pickle)


def load_kept(model_uri: str) -> KeptModel:
    """Load a model's state and description without making the model of it, and so without running anything."""
    import_mlflow()
    from mlflow.artifacts import download_artifacts
    from mlflow.models import Model

    folder = Path(download_artifacts(artifact_uri=str(model_uri)))
    known = Model.load(str(folder)).flavors
    if FLAVOUR not in known:
        raise ModelError(f"{model_uri}: a model of {', '.join(known) or 'no flavour'}; expected the flavour {FLAVOUR}")
    return KeptModel.read(folder / known["python_function"]["artifacts"][FLAVOUR]["path"])


def requirements(kept: KeptModel) -> list[str]:
    """Return what has to be installed where the model runs: exact versions, never inferred, which would take MLflow seconds."""
    names = ["tickfold", "mlflow", "numpy", "numba", "pandas"] + (["river"] if kept.pickled is not None else [])
    return [f"{name}=={version(name)}" for name in names]


def _signature(kept: KeptModel) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = Schema([ColSpec("double", name) for name in kept.features])
    if not kept.classes:
        names = ["value"] if kept.outputs == 1 else [f"value_{at}" for at in range(kept.outputs)]
        return ModelSignature(inputs, Schema([ColSpec("double", name) for name in names]))
    said = [ColSpec("double", name) for name in kept.classes]
    return ModelSignature(inputs, Schema([*said, ColSpec("string", "class", required=False)]))


def _example(kept: KeptModel, given: Any) -> Any:
    import pandas as pd

    rows = np.zeros((1, len(kept.features))) if given is None else given
    return rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, columns=list(kept.features))
