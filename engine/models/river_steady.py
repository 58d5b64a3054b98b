"""River models that give the same bits in every process.

Some of River's estimators go over a `set` of feature names, whose order is that of their hashes, so of PYTHONHASHSEED: k-means draws
its first centres in that order, CluStream runs such a k-means, `compose.Select` hands features on in it (sums of floats depend on
their order). And an estimator that takes a seed and was given none is different each time. `settle` puts the first kind into an order
of its own; what it cannot settle it names. Found by running every estimator of River 0.26 in two processes with different seeds.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
from river import base, cluster, compose


class SteadyKMeans(cluster.KMeans):
    """River's k-means, whose features come in the order in which they came first, not in that of a set."""

    def predict_one(self, x: dict[Any, Any]) -> int:
        """Return the nearest centre, the first of equals."""

        def distance(number: int) -> Any:
            center = self.centers[number]
            return sum(abs(center[name] - x.get(name, 0)) ** self.p for name in dict.fromkeys((*center, *x)))

        return min(self.centers, key=distance)


class SteadyCluStream(cluster.CluStream):
    """River's CluStream, with a steady k-means over its micro-clusters."""

    @property
    def _kmeans_mc(self) -> Any:
        try:
            return self.__dict__["_steady_kmeans"]
        except KeyError:
            raise AttributeError("there are no macro-clusters yet") from None  # River asks for it and takes cluster 0

    @_kmeans_mc.setter
    def _kmeans_mc(self, made: Any) -> None:
        made.__class__ = SteadyKMeans
        self.__dict__["_steady_kmeans"] = made


def settle(model: Any, seed: int) -> list[str]:
    """Make a model, in place, depend on nothing but `seed`. Returns what it still depends on, a line each; empty of a steady one.

    Raises what pickle raises if the model cannot be pickled.
    """
    faults: dict[str, None] = {}
    for part in _parts(model):
        kind = type(part)
        if kind is cluster.KMeans:
            part.__class__ = SteadyKMeans
        elif kind is cluster.CluStream:
            made = part.__dict__.pop("_kmeans_mc", None)
            part.__class__ = SteadyCluStream
            if made is not None:
                part._kmeans_mc = made
        elif kind is compose.Select:
            part.keys = dict.fromkeys(sorted(part.keys, key=str))
        elif kind is cluster.STREAMKMeans:
            faults["cluster.STREAMKMeans depends on PYTHONHASHSEED; cluster.KMeans does not, as tickfold builds it"] = (
                None
            )
        if getattr(part, "seed", 0) is None:
            _seed(part, seed)
    return list(faults)


def _seed(part: Any, seed: int) -> None:
    """Give a part that was given no seed one: for what it draws from already, and for what it will make of its parameter."""
    part.seed = seed
    for name, value in list(part.__dict__.items()):
        reseed = getattr(value, "seed", None)  # a method of Python's and of numpy's older generators
        if callable(reseed):
            reseed(seed)
        elif isinstance(value, np.random.Generator):
            setattr(part, name, np.random.default_rng(seed))


class _Finder(pickle.Pickler):
    """Meets every object that a model is made of: what is pickled is what a snapshot keeps."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), pickle.HIGHEST_PROTOCOL)
        self.found: list[Any] = []

    def persistent_id(self, part: Any) -> None:
        """Note River's objects, and let them be pickled as usual."""
        if isinstance(part, base.Base):
            self.found.append(part)


def _parts(model: Any) -> list[Any]:
    """Return the River objects that a model is made of, itself first; some of them more than once."""
    finder = _Finder()
    finder.dump(model)
    return finder.found
