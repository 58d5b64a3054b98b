"""What a model can do, by River's classes or by the methods it has, and whether that is what a target asks for."""

from __future__ import annotations

import sys
from typing import Any

from engine.errors import ModelError
from engine.models.river_arm import CLASSIFIER, CLUSTERER, DETECTOR, REGRESSOR
from engine.models.target import Target

ANY = "any"
"""Of an object that is no River class and has only predict_one: a label, a value or a cluster, as it is asked for."""


def role_of(model: Any, where: str) -> str:
    """Return the role of a model, or ANY. Raises ModelError for one that can have none."""
    if not callable(getattr(model, "learn_one", None)):
        raise ModelError(f"{where}: expected an object with learn_one, found {type(model).__name__}")
    learner = getattr(model, "learner", None)
    if learner is not None and type(model).__module__.startswith("engine.models.compiled"):
        return CLASSIFIER if learner.is_class else REGRESSOR
    role = _river_role(model, where) if "river" in sys.modules else ""
    if role:
        return role
    if callable(getattr(model, "predict_proba_one", None)):
        return CLASSIFIER
    if callable(getattr(model, "predict_one", None)):
        return ANY
    if callable(getattr(model, "score_one", None)):
        return DETECTOR
    raise ModelError(
        f"{where}: {type(model).__name__} has none of predict_proba_one, predict_one and score_one: it predicts nothing"
    )


def _river_role(model: Any, where: str) -> str:
    """Return the role of a River estimator (of a pipeline: of its last step), nothing of another object."""
    from river import active, base

    # River's classes answer isinstance for the last step of a pipeline.
    if not isinstance(model, base.Estimator):
        return ""
    name = type(getattr(model, "_last_step", model)).__name__
    if isinstance(model, active.base.ActiveLearningClassifier):
        raise ModelError(f"{where}: {name} asks for labels of its own choice; here every outcome is learned from")
    if isinstance(model, base.MultiLabelClassifier | base.MultiTargetRegressor):
        raise ModelError(f"{where}: {name} predicts several targets at once; a model here has one")
    if isinstance(model, base.SupervisedAnomalyDetector):
        raise ModelError(
            f"{where}: {name} scores the label of a row; an anomaly score here is made before there is one"
        )
    if isinstance(model, base.AnomalyDetector | base.AnomalyFilter):
        return DETECTOR
    for kind, role in ((base.Clusterer, CLUSTERER), (base.Classifier, CLASSIFIER), (base.Regressor, REGRESSOR)):
        if isinstance(model, kind):
            return role
    raise ModelError(f"{where}: {name} is no classifier, regressor, anomaly detector or clusterer")


def role_for(model: Any, target: Target, where: str) -> str:
    """Return the role in which a model serves a target. Raises ModelError if it cannot."""
    role = role_of(model, where)
    if target.is_supervised:
        wanted = CLASSIFIER if target.classes else REGRESSOR
        if role not in (wanted, ANY):
            raise ModelError(f"{where}: {_name(model)} is a {role}, target {target.name} asks for a {wanted}")
        if len(target.classes) > 2 and is_binary(model):
            raise ModelError(
                f"{where}: {_name(model)} tells two classes apart, target {target.name} has {len(target.classes)}: "
                'wrap it, {river = "multiclass.OneVsRestClassifier", classifier = ...}'
            )
        return wanted
    if role not in (DETECTOR, CLUSTERER, ANY):
        raise ModelError(f"{where}: {_name(model)} is a {role}: it needs a target, and found target {target.name}")
    return CLUSTERER if role == ANY else role


def is_binary(model: Any) -> bool:
    """Whether a model is a classifier of River's that knows only False and True. It would take a third class without an error."""
    if "river" not in sys.modules:
        return False
    from river import base

    return isinstance(model, base.Classifier) and not model._multiclass


def _name(model: Any) -> str:
    return type(getattr(model, "_last_step", model)).__name__
