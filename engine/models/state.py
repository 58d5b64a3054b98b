"""What a digest of the state covers of a key's models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def model_parts(arrays: Mapping[str, npt.NDArray[Any]]) -> Iterator[bytes]:
    """Yield the names and bytes of all arrays but pickles, whose bytes are not canonical: what those models predict proves them."""
    for name in sorted(arrays):
        if not name.endswith("pickle"):
            yield name.encode()
            yield np.ascontiguousarray(arrays[name]).tobytes()
