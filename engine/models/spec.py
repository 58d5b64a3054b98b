"""A model as its configuration was resolved: target, horizon, features, and the algorithm of each version."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import ConfigError
from engine.models.horizon import Horizon, parse_horizon
from engine.models.settings import ModelConfig, ModelsConfig
from engine.models.target import Target, resolve_target

ON_TICKS = (
    "market:side",
    "market:spread_bps",
    "market:imbalance",
    "technical:rsi_14",
    "technical:rsi_50",
    "technical:macd",
    "technical:macd_histogram",
    "derived:price_change_1m",
    "derived:price_change_5m",
    "derived:volume_ratio",
    "derived:volatility_index",
    "derived:trade_imbalance_1m",
)
"""What the built-in models look at: stationary features of each trade. Prices themselves are left out: a level predicts nothing."""

# Rates are low because labels of successive trades overlap: a minute of trades says the same thing some hundred times over.
BUILT_IN: Mapping[str, ModelConfig] = {
    "direction": ModelConfig(
        features=ON_TICKS,
        algorithm={"algorithm": "scaled_softmax", "lr": 0.00005, "intercept_lr": 0.0005, "clip_z": 5.0},
    ),
    "log_return": ModelConfig(
        features=ON_TICKS,
        target="log_return",
        algorithm={"algorithm": "scaled_linear", "optimizer": "nlms", "lr": 0.0001},
    ),
}


@dataclass(frozen=True)
class ModelSpec:
    """One model, ready to be instantiated for each key."""

    name: str
    config: ModelConfig
    target: Target
    horizon: Horizon
    features: tuple[tuple[str, str], ...]  # (view, feature)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features as the models see them: "view:feature"."""
        return tuple(f"{view}:{feature}" for view, feature in self.features)

    @property
    def algorithms(self) -> tuple[dict[str, Any], ...]:
        """Of version "1", "2", ...: the first champion's, then the challengers'."""
        return (self.config.algorithm, *self.config.challengers)


ALL_BUILT_IN = "built-in"
"""In `models.run`: the built-in models whose views are computed."""


def resolve_models(config: ModelsConfig, views: Collection[str]) -> tuple[ModelSpec, ...]:
    """Return the models that a configuration asks for: built in or defined in it. `views` are those that are computed.

    Raises ConfigError for any that cannot be.
    """
    if taken := sorted(set(config.define) & set(BUILT_IN)):
        raise ConfigError(f"models.define.{taken[0]}: that name is a built-in model's")
    known = {**BUILT_IN, **config.define}
    needed = {text.partition(":")[0] for text in ON_TICKS}
    wanted: list[str] = []
    for name in config.run:
        if name != ALL_BUILT_IN:
            wanted.append(name)
        elif needed <= set(views):
            wanted += BUILT_IN
    if twice := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise ConfigError(f"models.run: {twice[0]!r} is given twice")
    found = []
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"models.run: {name!r}: expected {ALL_BUILT_IN}, or one of {', '.join(known)}{hint}")
        found.append(resolve_model(name, known[name]))
    return tuple(found)


def resolve_model(name: str, config: ModelConfig) -> ModelSpec:
    """Return one model as its configuration means it. Raises ConfigError that names the key."""
    where = f"models.define.{name}"
    if name == ALL_BUILT_IN or not name.replace("_", "").isalnum() or not name.isascii():
        raise ConfigError(f"{where}: expected a name of letters, digits and underscores")
    features = []
    for text in config.features:
        view, separator, feature = text.partition(":")
        if not separator or not view or not feature:
            raise ConfigError(f"{where}.features: {text!r}: expected view:feature, such as technical:rsi_14")
        features.append((view.partition("@")[0], feature))
    if not features:
        raise ConfigError(f"{where}.features = []: expected at least one view:feature")
    if twice := sorted({one for one in features if features.count(one) > 1}):
        raise ConfigError(f"{where}.features: {':'.join(twice[0])} is given twice")
    target = resolve_target(config.target, f"{where}.target")
    return ModelSpec(name, config, target, parse_horizon(config.horizon, f"{where}.horizon"), tuple(features))
