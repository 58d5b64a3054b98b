"""scaled_linear: a value by linear regression on standardised features, learned by gradient descent or normalised least mean squares.

Like       optimizer = "sgd" with clip_z = 0 and clip_prediction = 0 is River 0.26: StandardScaler() | LinearRegression(SGD(lr), l2=,
           intercept_lr=, clip_gradient=), equal to 1e-9
Output     the value; 0 before anything was learned
Parameters lr, intercept_lr (sgd only), l2, clip_gradient as in River. clip_z (default 5): bound of a scaled feature in deviations.
           clip_prediction (default 2): a prediction is kept within that many times the greatest label seen so far, in size; learning
           takes the prediction so clipped. 0 switches either off
nlms       the step is lr * error / (1 + |z|^2), the 1 being the intercept's input: with lr <= 1 a step never makes the error of
           its own row greater, whatever the row's size; l2 lets weights leak. clip_gradient bounds the error
Cost       O(n) time, 3 + 3 n floats of state
Heavy tails  plain SGD explodes once lr * |z|^2 > 1 on a few rows in a row; that is why the clips are on unless told otherwise
Reference  S. Haykin, Adaptive Filter Theory (2002), chapter 6, for normalised least mean squares
"""

from __future__ import annotations

from typing import Any

from engine.models.compiled.learner import Learner, Parameter
from engine.models.compiled.logistic import RATES, descend
from engine.models.compiled.scaler import clip_of, dot, scaler_learn, scaler_size, scaler_transform

LR, INTERCEPT_LR, L2, CLIP_GRADIENT, CLIP_Z, CLIP_PREDICTION, OPTIMIZER = range(7)
NLMS = 1.0
GREATEST, INTERCEPT, WEIGHTS = range(3)  # behind the scaler: the greatest label so far, in size; the model


def linear_size(features: Any, _outputs: Any) -> int:
    """Return the floats of state: the scaler, the greatest label, the intercept, the weights."""
    return scaler_size(features) + WEIGHTS + int(features)


def linear_work(features: Any, _outputs: Any) -> int:
    """Return the floats of scratch: the scaled row."""
    return int(features)


def value_of(p: Any, model: Any, z: Any) -> float:
    """Return the value of a scaled row, clipped if it shall be; `model` is the state behind the scaler."""
    value: float = dot(model[WEIGHTS:], z) + model[INTERCEPT]
    if p[CLIP_PREDICTION] > 0.0:
        most = p[CLIP_PREDICTION] * model[GREATEST]
        value = max(min(value, most), -most)
    return value


def linear_predict(p: Any, s: Any, x: Any, out: Any, work: Any) -> None:
    """Write the value."""
    scaler_transform(s, x, work, clip_of(p[CLIP_Z]))
    out[0] = value_of(p, s[scaler_size(len(x)) :], work)


def linear_learn(p: Any, s: Any, x: Any, y: float, _outputs: Any, work: Any) -> None:
    """Take the row into the scaler, then one step down the gradient of its squared error."""
    scaler_learn(s, x, work, clip_of(p[CLIP_Z]))
    model = s[scaler_size(len(x)) :]
    error = value_of(p, model, work) - y
    model[GREATEST] = max(model[GREATEST], abs(y))
    if p[OPTIMIZER] == NLMS:
        error = max(min(error, p[CLIP_GRADIENT]), -p[CLIP_GRADIENT])
        step = p[LR] / (1.0 + dot(work, work))
        model[INTERCEPT] -= step * error
        descend(model[WEIGHTS:], work, step * error, 1.0, p[LR] * p[L2])
    else:
        gradient = max(min(2.0 * error, p[CLIP_GRADIENT]), -p[CLIP_GRADIENT])
        model[INTERCEPT] -= p[INTERCEPT_LR] * gradient
        descend(model[WEIGHTS:], work, gradient, p[LR], p[L2])


LINEAR = Learner(
    name="scaled_linear",
    version=1,
    is_class=False,
    outputs_min=1,
    outputs_max=1,
    parameters={
        "lr": RATES,
        "intercept_lr": Parameter(0.01, 0.0, 1.0),
        "l2": Parameter(0.0, 0.0, 1.0),
        "clip_gradient": Parameter(1e12, 0.0, 1e12, is_open=True),
        "clip_z": Parameter(5.0, 0.0, 1e9),
        "clip_prediction": Parameter(2.0, 0.0, 1e6),
        "optimizer": Parameter("sgd", choices=("sgd", "nlms")),
    },
    size=linear_size,
    work=linear_work,
    predict=linear_predict,
    learn=linear_learn,
)
