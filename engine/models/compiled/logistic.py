"""scaled_logistic: two classes by logistic regression on standardised features, learned by stochastic gradient descent.

Like       River 0.26: StandardScaler() | LogisticRegression(SGD(lr), l2=, intercept_lr=, clip_gradient=), equal to 1e-9
Output     (1 - p, p): the probabilities of False and True; (0.5, 0.5) before anything was learned
Parameters lr, intercept_lr, l2, clip_gradient as in River; clip_z: bound of a scaled feature in deviations, 0 (default, as in
           River) for none
Cost       O(n) time, 2 + 3 n floats of state
Heavy tails  the gradient of the log loss lies in [-1, 1] and |z| is bounded, so nothing explodes; clip_z = 5 keeps one odd row from
           moving the weights far
"""

from __future__ import annotations

import math
from typing import Any

from engine.models.compiled.learner import Learner, Parameter
from engine.models.compiled.scaler import clip_of, dot, scaler_learn, scaler_size, scaler_transform

LR, INTERCEPT_LR, L2, CLIP_GRADIENT, CLIP_Z = range(5)
RATES = Parameter(0.01, 0.0, 1.0, is_open=True)


def sigmoid(raw: float) -> float:
    """Return 1 / (1 + exp(-raw)); beyond +-30 it is 0 or 1, as in River."""
    if raw < -30.0:
        return 0.0
    if raw > 30.0:
        return 1.0
    return 1.0 / (1.0 + math.exp(-raw))


def log_loss_gradient(y: float, raw: float) -> float:
    """Return the derivative of the log loss by the logit, with River's shortcuts beyond +-18."""
    sign = 1.0 if y > 0.5 else -1.0
    margin = raw * sign
    if margin > 18.0:
        return math.exp(-margin) * -sign
    if margin < -18.0:
        return -sign
    return -sign / (math.exp(margin) + 1.0)


def logistic_size(features: Any, _outputs: Any) -> int:
    """Return the floats of state: the scaler, the intercept, the weights."""
    return scaler_size(features) + 1 + int(features)


def logistic_work(features: Any, _outputs: Any) -> int:
    """Return the floats of scratch: the scaled row."""
    return int(features)


def logistic_predict(p: Any, s: Any, x: Any, out: Any, work: Any) -> None:
    """Write the probabilities of both classes."""
    scaler_transform(s, x, work, clip_of(p[CLIP_Z]))
    weights_at = scaler_size(len(x))
    likely = sigmoid(dot(s[weights_at + 1 :], work) + s[weights_at])
    out[0] = 1.0 - likely
    out[1] = likely


def logistic_learn(p: Any, s: Any, x: Any, y: float, _outputs: Any, work: Any) -> None:
    """Take the row into the scaler, then one step down the gradient of its log loss."""
    scaler_learn(s, x, work, clip_of(p[CLIP_Z]))
    weights_at = scaler_size(len(x))
    weights = s[weights_at + 1 :]
    gradient = log_loss_gradient(y, dot(weights, work) + s[weights_at])
    gradient = max(min(gradient, p[CLIP_GRADIENT]), -p[CLIP_GRADIENT])
    s[weights_at] -= p[INTERCEPT_LR] * gradient
    descend(weights, work, gradient, p[LR], p[L2])


def descend(weights: Any, z: Any, gradient: float, lr: float, l2: float) -> None:
    """Move the weights by `lr` against the gradient of a loss by a linear predictor, and of an l2 penalty."""
    for at in range(len(z)):
        weights[at] -= lr * (gradient * z[at] + l2 * weights[at])


LOGISTIC = Learner(
    name="scaled_logistic",
    version=1,
    is_class=True,
    outputs_min=2,
    outputs_max=2,
    parameters={
        "lr": RATES,
        "intercept_lr": Parameter(0.01, 0.0, 1.0),
        "l2": Parameter(0.0, 0.0, 1.0),
        "clip_gradient": Parameter(1e12, 0.0, 1e12, is_open=True),
        "clip_z": Parameter(0.0, 0.0, 1e9),
    },
    size=logistic_size,
    work=logistic_work,
    predict=logistic_predict,
    learn=logistic_learn,
)
