"""What a feature view is: named features on one clock.

A clock says when a view emits a row: at every trade, or at each bar by time, ticks, volume or notional. On bars the fields `price`
and `volume` are the bar's close and volume, so that one definition serves every clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.errors import ConfigError
from engine.indicator import NS_PER_UNIT, WINDOW_MAX_NS, Field, Node, Value, as_node, duration_ns

QUOTE_FIELDS = ("bid", "bid_volume", "ask", "ask_volume")
TICK_FIELDS = ("price", "volume", "side", *QUOTE_FIELDS)
BAR_FIELDS = (
    "price",
    "volume",
    "open",
    "high",
    "low",
    "close",
    "notional",
    "buy_volume",
    "sell_volume",
    "trades",
    *QUOTE_FIELDS,
)
STAMP_NAMES = ("timestamp", "received", "exchange", "symbol", "sequence", "ready")
NAME = re.compile(r"[a-z][a-z0-9_]*")
VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Clock:
    """When rows are due. `kind` is "tick", "time" (size in ns), "ticks", "volume" (base currency) or "notional" (quote currency)."""

    kind: str = "tick"
    size: float | int = 0

    @property
    def fields(self) -> tuple[str, ...]:
        """What features on this clock may read."""
        return TICK_FIELDS if self.kind == "tick" else BAR_FIELDS

    def __str__(self) -> str:
        return self.kind if self.kind == "tick" else f"{self.kind} {self.size}"

    @classmethod
    def parse(cls, text: str | Clock) -> Clock:
        """Read "tick", a time ("1s", "5m"), "100 ticks", "25.0 volume" or "1000000 notional". Raises ConfigError for anything else."""
        if isinstance(text, Clock) or text == "tick":
            return text if isinstance(text, Clock) else cls()
        if time_ns := duration_ns(text):
            if time_ns > WINDOW_MAX_NS:
                raise ConfigError(f"clock {text!r}: expected at most {WINDOW_MAX_NS // NS_PER_UNIT['d']}d")
            return cls("time", time_ns)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s+(ticks|volume|notional)", text.strip())
        if found and float(found[1]) > 0.0:
            if found[2] != "ticks":
                return cls(found[2], float(found[1]))
            if "." not in found[1]:
                return cls("ticks", int(found[1]))
        raise ConfigError(
            f'clock {text!r}: expected "tick", a time such as "1s", or bars such as "100 ticks", "25.0 volume", "1000000 notional"'
        )


@dataclass(frozen=True)
class FeatureView:
    """Named features that are due together.

    name: lower case, digits and underscores. features: name to node (or to a field's name). clock: as `Clock.parse` reads it.
    Raises ConfigError that names the view and the feature for whatever does not fit.
    """

    name: str
    features: Mapping[str, Value]
    clock: Clock | str = field(default_factory=Clock)
    version: str = "1.0.0"
    description: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise ConfigError(
                f"feature view {self.name!r}: expected a name of lower-case letters, digits and underscores"
            )
        if not VERSION.fullmatch(self.version):
            raise ConfigError(
                f"feature view {self.name}: version {self.version!r}: expected three numbers such as 1.0.0"
            )
        object.__setattr__(self, "clock", Clock.parse(self.clock))
        if not self.features:
            raise ConfigError(f"feature view {self.name}: expected at least one feature")
        nodes: dict[str, Node] = {}
        for feature, value in self.features.items():
            if not NAME.fullmatch(feature):
                raise ConfigError(
                    f"feature view {self.name}: feature {feature!r}: expected lower-case letters, digits and underscores"
                )
            if isinstance(value, tuple):
                raise ConfigError(
                    f"feature view {self.name}: {feature}: found {len(value)} outputs, expected one; unpack them"
                )
            if feature in STAMP_NAMES:
                raise ConfigError(
                    f"feature view {self.name}: feature {feature!r}: every row has a column of that name already"
                )
            try:
                nodes[feature] = as_node(value)
            except ConfigError as error:
                raise ConfigError(f"feature view {self.name}: {feature}: {error}") from error
            self._check_fields(feature, nodes[feature])
        object.__setattr__(self, "features", nodes)

    @property
    def nodes(self) -> dict[str, Node]:
        """Name to node, in the order of the columns."""
        return {name: as_node(value) for name, value in self.features.items()}

    @property
    def ticking(self) -> Clock:
        """The clock, parsed."""
        return Clock.parse(self.clock)

    def _check_fields(self, feature: str, node: Node) -> None:
        known = self.ticking.fields
        if isinstance(node, Field) and node.name not in known:
            raise ConfigError(
                f"feature view {self.name}: {feature}: no field {node.name!r} on clock {self.clock}; there are {', '.join(known)}"
            )
        for part in node.parts():
            self._check_fields(feature, part)
