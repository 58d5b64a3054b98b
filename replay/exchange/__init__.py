"""The loopback exchange: recordings served over real websockets and REST on this machine, as the recorded exchanges do."""

from replay.exchange.server import EPOCH_NS, RECORDING_HEADER, Exchange

__all__ = ["EPOCH_NS", "RECORDING_HEADER", "Exchange"]
