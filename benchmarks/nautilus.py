"""NautilusTrader's backtest engine on the synthetic ticks: the peer of the event path.

Built outside of what is measured: the engine, its venue and instrument, every TradeTick object, and its copy of the data (add_data
checks and sorts it). Measured: `BacktestEngine.run`, that is clock, simulated exchange, data engine, cache, message bus, strategy.
"""

from __future__ import annotations

from typing import Any

from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig
from nautilus_trader.indicators import (
    BollingerBands,
    ExponentialMovingAverage,
    MovingAverageConvergenceDivergence,
    MovingAverageType,
    RelativeStrengthIndex,
    SimpleMovingAverage,
)
from nautilus_trader.model.currencies import USDT
from nautilus_trader.model.data import TradeTick
from nautilus_trader.model.enums import AccountType, AggressorSide, OmsType
from nautilus_trader.model.identifiers import TradeId, Venue
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.test_kit.providers import TestInstrumentProvider
from nautilus_trader.trading.strategy import Strategy

from benchmarks.harness import Run, require, require_close
from benchmarks.synthetic import Ticks

INSTRUMENT = TestInstrumentProvider.btcusdt_binance()


def trade_ticks(ticks: Ticks) -> list[Any]:
    """Return the ticks as Nautilus's own objects."""
    sides = {1: AggressorSide.BUYER, -1: AggressorSide.SELLER}
    columns = (ticks.price, ticks.volume, ticks.side, ticks.trade_id, ticks.timestamp, ticks.received)
    return [
        TradeTick(INSTRUMENT.id, Price(price, 2), Quantity(volume, 6), sides[side], TradeId(str(number)), event, init)
        for price, volume, side, number, event, init in zip(*(c.tolist() for c in columns), strict=True)
    ]


class Empty(Strategy):  # type: ignore[misc]
    """Hears every trade and does nothing."""

    def on_start(self) -> None:
        self.subscribe_trade_ticks(INSTRUMENT.id)

    def on_trade_tick(self, tick: TradeTick) -> None:
        pass


class Counting(Empty):
    """What the check before the measurement uses: counts trades and adds up prices."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.total = 0, 0.0

    def on_trade_tick(self, tick: TradeTick) -> None:
        self.count += 1
        self.total += tick.price.as_double()


class Indicators(Strategy):  # type: ignore[misc]
    """Feeds the columns of `technical` from every trade: those that take a trade are registered, the others are called."""

    def __init__(self) -> None:
        super().__init__()
        self.rsi = [RelativeStrengthIndex(period, MovingAverageType.WILDER) for period in (14, 21, 50)]
        self.macd = MovingAverageConvergenceDivergence(12, 26, MovingAverageType.EXPONENTIAL)
        self.signal = ExponentialMovingAverage(9)
        self.bands = BollingerBands(20, 2.0)
        self.volume_sma = SimpleMovingAverage(20)
        self.volume_ema = ExponentialMovingAverage(12)

    def on_start(self) -> None:
        self.register_indicator_for_trade_ticks(INSTRUMENT.id, self.macd)
        self.register_indicator_for_trade_ticks(INSTRUMENT.id, self.bands)
        self.subscribe_trade_ticks(INSTRUMENT.id)

    def on_trade_tick(self, tick: TradeTick) -> None:
        price, volume = tick.price.as_double(), tick.size.as_double()
        for rsi in self.rsi:
            rsi.update_raw(price)
        self.signal.update_raw(self.macd.value)
        self.volume_sma.update_raw(volume)
        self.volume_ema.update_raw(volume)

    def outputs(self) -> dict[str, float]:
        """Return the newest values under the names of our columns."""
        line, signal = self.macd.value, self.signal.value
        return {
            **{f"rsi_{rsi.period}": 100.0 * rsi.value for rsi in self.rsi},
            "macd": line,
            "macd_signal": signal,
            "macd_histogram": line - signal,
            **{f"bollinger_{part}": getattr(self.bands, part) for part in ("upper", "middle", "lower")},
            "volume_sma_20": self.volume_sma.value,
            "volume_ema_12": self.volume_ema.value,
        }


class Backtest:
    """One kind of strategy on ticks that are built once; each repetition has an engine of its own."""

    def __init__(self, strategy: type[Strategy], ticks: list[Any]) -> None:
        self.kind = strategy
        self.ticks = ticks
        self.engine: Any = None
        self.strategy: Any = None

    def prepare(self) -> Run:
        self.close()
        self.strategy = self.kind()
        self.engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
        money = [Money(1_000_000, USDT)]
        self.engine.add_venue(Venue("BINANCE"), OmsType.NETTING, AccountType.CASH, money, base_currency=None)
        self.engine.add_instrument(INSTRUMENT)
        self.engine.add_data(self.ticks)
        self.engine.add_strategy(self.strategy)
        # As a stream, so that the analysis after a run is not measured.
        return lambda: self.engine.run(streaming=True)

    def close(self) -> None:
        """Let go of the engine of the last repetition."""
        if self.engine is not None:
            self.engine.end()
            self.engine.dispose()
            self.engine = None


def check(ticks: Ticks, objects: list[Any], ours: dict[str, float]) -> None:
    """Raise WrongOutputError unless Nautilus hears every tick and its indicators end where ours do."""
    counted = Backtest(Counting, objects)
    counted.prepare()()
    heard = counted.strategy
    require(
        heard.count == len(ticks), f"NautilusTrader's strategy heard {heard.count} trades, expected all {len(ticks)}"
    )
    require_close("prices that NautilusTrader's strategy heard", heard.total, float(ticks.price.sum()), relative=1e-9)
    counted.close()
    computed = Backtest(Indicators, objects)
    computed.prepare()()
    for name, value in computed.strategy.outputs().items():
        require_close(f"last {name} of NautilusTrader", ours[name], value, absolute=1e-6, relative=1e-6)
    computed.close()
