"""A model as its configuration was resolved: target, horizon, features, and the algorithm of each version."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

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
    versions: tuple[str, ...]  # of each feature's view, as it was asked for; empty for whatever is computed

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
    features, versions = [], []
    for text in config.features:
        view, separator, feature = text.partition(":")
        if not separator or not view or not feature:
            raise ConfigError(
                f"{where}.features: {text!r}: expected view:feature or view@version:feature, such as technical:rsi_14"
            )
        features.append((view.partition("@")[0], feature))
        versions.append(view.partition("@")[2])
    if not features:
        raise ConfigError(f"{where}.features = []: expected at least one view:feature")
    if twice := sorted({one for one in features if features.count(one) > 1}):
        raise ConfigError(f"{where}.features: {':'.join(twice[0])} is given twice")
    target = resolve_target(config.target, f"{where}.target")
    runs = 1 + len(config.challengers)
    if not target.is_supervised and (runs > 1 or config.pooled):
        raise ConfigError(
            f"{where}: target = {config.target!r} has no labels: expected no challengers, and no pooled contest"
        )
    if config.split.share > 0.0 and int(config.split.version) > runs:
        raise ConfigError(f"{where}.split.version = {config.split.version!r}: expected one of the versions 1 to {runs}")
    # By the order of their keys, whoever wrote them: the journal keeps a configuration so, and what it says must be the same.
    config = msgspec.structs.replace(
        config, algorithm=_ordered(config.algorithm), challengers=tuple(_ordered(one) for one in config.challengers)
    )
    horizon = parse_horizon(config.horizon, f"{where}.horizon")
    return ModelSpec(name, config, target, horizon, tuple(features), tuple(versions))


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(part) for part in value] if isinstance(value, list | tuple) else value
