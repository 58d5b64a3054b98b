"""What readers see of the models: how each stands, a report of its scores, and how its skill went.

Standings are copied out of the fold on the loop, a few at a time; what is made of them (intervals by resampling take a while) is made
in a thread, and kept until more has been verified. An effect looks at SAMPLED models a second in turn, for the history and the
metrics; a request looks at those that it asks for, at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeAlias

import structlog

from engine.events import Prediction
from engine.models.naming import algorithm_text
from engine.models.report import report
from engine.models.river_arm import CLUSTERER, DETECTOR
from engine.models.standing import Standing, VersionStanding, standing_of
from engine.models.target import NONE
from engine.serving.answers import ApiError
from engine.serving.host import Host
from engine.serving.tracks import Recent, Track

SAMPLE_S = 1.0
SAMPLED = (
    64  # models of keys that are looked at in one turn: each costs some 50 us of the loop, and some ms of a thread
)
AT_ONCE_S = 0.002  # of the loop, before others get their turn
ALARMS = 20  # that are told
MIB = 1 << 20
TRACKS = 256  # models of keys whose history is kept
FIELDS = ("model", "exchange", "symbol", "history")

Of: TypeAlias = tuple[str, str, str]
"""(exchange, symbol, model)."""


@dataclass
class Seen:
    """One model of one key, as it was last looked at. `reports` are by version, of scores at so many outcomes."""

    standing: Standing
    reports: dict[str, tuple[int, int, dict[str, Any] | None]] = field(default_factory=dict)
    track: Track | None = None
    role: str = ""
    newest: Prediction | None = None
    recent: Recent | None = None
    """Of a model without labels: what it is, if that is known here, what it said last, and what it said before."""

    def report(self, version: str) -> dict[str, Any] | None:
        """What the scores of a version say; None before anything was made of them."""
        found = self.reports.get(version)
        return None if found is None else found[2]

    @property
    def champion(self) -> VersionStanding | None:
        """The version that the others are measured against."""
        return next((one for one in self.standing.versions if one.role == "champion"), None)

    def stale(self) -> Iterator[VersionStanding]:
        """Versions that have verified more, or begun anew, since their report was made."""
        for version in self.standing.versions:
            if self.reports.get(version.version, (-1, -1))[:2] != (version.since, self.standing.outcomes):
                yield version


@dataclass(frozen=True)
class Wish:
    """What a request asks for: empty means all."""

    model: str = ""
    exchange: str = ""
    symbol: str = ""
    history: bool = False


class Board:
    """All models of one daemon."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._seen: dict[Of, Seen] = {}
        self._next = 0  # where the next turn begins
        self._making = asyncio.Lock()
        self._tracks = 0
        self._alarmed: set[str] = set()

    # -- what is known

    def known(self) -> list[Seen]:
        """Every model that was looked at so far, as it was then."""
        return list(self._seen.values())

    def health(self) -> dict[str, Any]:
        """Return how many models of keys there are, what they take, and what is wrong with them, as far as was seen."""
        stage = self._host.fold.models
        standings = [seen.standing for seen in self._seen.values()]
        return {
            "running": [] if stage is None else [spec.name for spec in stage.specs],
            "instances": 0 if stage is None else sum(map(len, stage.actors.values())),
            "ready": sum(standing.is_ready for standing in standings),
            "memory_bytes": sum(standing.memory for standing in standings),
            "alarms": self.alarms(),
        }

    def alarms(self) -> list[str]:
        """Models that take more memory than they may, and versions that are parked, in words."""
        most = self._host.config.models.memory_mib * MIB
        said = []
        for seen in self._seen.values():
            one = seen.standing
            name = f"model {one.model} of {one.exchange} {one.symbol}"
            if one.memory > most:
                said.append(f"{name} takes {one.memory / MIB:.0f} MiB, more than models.memory_mib = {most / MIB:g}")
            said += [f"{name}: version {v.version} is parked: {v.parked[:200]}" for v in one.versions if v.parked]
        return said[:ALARMS]

    # -- looking

    async def run(self) -> None:
        """Look at some models each second, until cancelled. A defect is logged and hurts nobody."""
        while True:
            try:
                await self.sample()
            except Exception as error:
                structlog.get_logger().error("models cannot be looked at", error=repr(error), exc_info=error)
            await asyncio.sleep(SAMPLE_S)

    async def sample(self) -> None:
        """Look at the models whose turn it is, and note how they do."""
        ofs = self._all()
        if not ofs:
            return
        first = self._next % len(ofs)
        turn = (ofs + ofs)[first : first + min(SAMPLED, len(ofs))]
        self._next = first + len(turn)
        now = self._host.clock.now()
        for seen in await self._look(turn):
            self._note(seen, now)
        alarms = self.alarms()
        for said in alarms:
            if said.partition(" takes ")[0] not in self._alarmed:
                structlog.get_logger().warning("model alarm", reason=said)
        self._alarmed = {said.partition(" takes ")[0] for said in alarms}

    async def standings(self, wish: Wish) -> list[dict[str, Any]]:
        """Return how the models stand that a request asks for, as JSON."""
        wanted = [
            of
            for of in self._all()
            if wish.model in ("", of[2]) and wish.exchange in ("", of[0]) and wish.symbol in ("", of[1])
        ]
        return [told(seen, wish.history) for seen in await self._look(wanted)]

    def _all(self) -> list[Of]:
        stage = self._host.fold.models
        if stage is None:
            return []
        return [(*key, actor.shared.spec.name) for key, actors in stage.actors.items() for actor in actors]

    async def _look(self, ofs: list[Of]) -> list[Seen]:
        """Copy how these stand, and have reports made of what is new."""
        stage, loop = self._host.fold.models, asyncio.get_running_loop()
        if stage is None:
            return []
        found: list[Seen] = []
        began = loop.time()
        for of in ofs:
            for actor in stage.actors.get(of[:2], ()):
                if actor.shared.spec.name == of[2]:
                    found.append(seen := self._see(of, standing_of(actor)))
                    if seen.standing.kind == NONE:
                        seen.newest = stage.latest(of[2], *of[:2])
                        arm = stage.arm(of[2], *of[:2], seen.standing.served)
                        seen.role = getattr(arm, "role", "") or role_by_name(seen.champion)
            if loop.time() - began > AT_ONCE_S:
                await asyncio.sleep(0)
                began = loop.time()
        async with self._making:
            stale = [(seen.standing, version) for seen in found for version in seen.stale()]
            if stale:
                made = await asyncio.to_thread(_reports, stale)
                for (standing, version), fresh in zip(stale, made, strict=True):
                    seen = self._seen[standing.exchange, standing.symbol, standing.model]
                    seen.reports[version.version] = (version.since, standing.outcomes, fresh)
        return found

    def _see(self, of: Of, standing: Standing) -> Seen:
        seen = self._seen.get(of)
        if seen is None:
            seen = self._seen[of] = Seen(standing)
        seen.standing = standing
        running = {version.version for version in standing.versions}
        for version in [one for one in seen.reports if one not in running]:
            del seen.reports[version]
        return seen

    def _note(self, seen: Seen, now: int) -> None:
        if seen.standing.kind == NONE:
            self._note_said(seen)
            return
        champion = seen.champion
        found = None if champion is None else seen.report(champion.version)
        if champion is None or not found or not found["n"]:
            return
        if seen.track is None:
            if not self._has_room():
                return
            seen.track = Track(tuple(losses_of(found)))
        seen.track.add(now, int(champion.version), found, losses_of(found), loss_of(found))

    def _note_said(self, seen: Seen) -> None:
        newest = seen.newest
        if newest is None or not math.isfinite(newest.value):
            return
        if seen.recent is None:
            if not self._has_room():
                return
            seen.recent = Recent()
        seen.recent.add(newest.received, newest.value)

    def _has_room(self) -> bool:
        """Whether the history of one more may be kept; count it."""
        if self._tracks >= TRACKS:
            return False
        self._tracks += 1
        if self._tracks == TRACKS:
            structlog.get_logger().warning(
                "history of models is full", kept=TRACKS, hint="of further models none is kept"
            )
        return True


def _reports(stale: list[tuple[Standing, VersionStanding]]) -> list[dict[str, Any] | None]:
    return [report_of(standing, version) for standing, version in stale]


def report_of(standing: Standing, version: VersionStanding) -> dict[str, Any] | None:
    """Return what the scores of a version say; None of what has no labels, and so no scores."""
    if standing.kind == NONE:
        return None
    return report(version.score, kind=standing.kind, classes=standing.classes, coverage=standing.coverage)


def loss_of(report: Mapping[str, Any]) -> float | None:
    """The mean loss that skill is measured by: Brier halved, or the squared error."""
    loss: float | None = report[report["headline"]]
    return loss


def losses_of(report: Mapping[str, Any]) -> dict[str, float | None]:
    """The same of each baseline."""
    found: dict[str, float | None] = report["baselines"]
    return found


def told(seen: Seen, with_history: bool) -> dict[str, Any]:
    """Return how a model stands, as JSON can have it."""
    standing = seen.standing
    more = {"history": seen.track.to_builtins() if seen.track is not None else None} if with_history else {}
    return {
        "model": standing.model,
        "exchange": standing.exchange,
        "symbol": standing.symbol,
        "target": standing.target,
        "horizon": standing.horizon,
        "classes": standing.classes,
        "coverage": standing.coverage,
        "champion": standing.champion,
        "served": standing.served,
        "ready": standing.is_ready,
        "pinned": standing.is_pinned,
        "predictions": standing.predictions,
        "outcomes": standing.outcomes,
        "void": standing.void,
        "waiting": standing.waiting,
        "skipped": standing.skipped,
        "imputed": standing.imputed,
        "late_answers": standing.late_answers,
        "drifts": standing.drifts,
        "promotions": standing.promotions,
        "marks": [
            {"sequence": at, "received": received, "kind": text.partition(" ")[0], "text": text}
            for at, received, text in standing.marks
        ],
        "row_us": row_us(standing),
        "memory_bytes": standing.memory,
        "said": said_of(seen, with_history) if standing.kind == NONE else None,
        "versions": [
            {
                "version": one.version,
                "role": one.role,
                "algorithm": one.algorithm,
                "algorithm_text": algorithm_text(one.algorithm),
                "since": one.since,
                "learned": one.learned,
                "failed": one.failed,
                "parked": one.parked,
                "memory_bytes": one.memory,
                "e_value": _finite(one.e_value),
                "threshold": _finite(one.threshold),
                "pairs": one.pairs,
                "report": seen.report(one.version),
            }
            for one in standing.versions
        ],
        **more,
    }


def said_of(seen: Seen, with_history: bool) -> dict[str, Any]:
    """Return what a model without labels said last, and before that, as JSON can have it."""
    newest, recent = seen.newest, seen.recent
    more = {"history": None if recent is None else recent.to_builtins()} if with_history else {}
    return {
        "kind": {DETECTOR: "score", CLUSTERER: "cluster"}.get(seen.role, ""),
        "value": None if newest is None else _finite(newest.value),
        "received": None if newest is None else newest.received,
        **more,
    }


def role_by_name(version: VersionStanding | None) -> str:
    """What a model in a worker process is, which its arm here does not know: by the module of River's that its last step is of."""
    spec: Any = None if version is None else version.algorithm.get("river")
    while isinstance(spec, list | tuple | Mapping) and spec:
        spec = spec.get("river") if isinstance(spec, Mapping) else spec[-1]
    module = spec.partition(".")[0] if isinstance(spec, str) else ""
    return {"anomaly": DETECTOR, "cluster": CLUSTERER}.get(module, "")


def row_us(standing: Standing) -> float | None:
    """What learning and predicting take a row of features, all versions together, us; None where it is not measured."""
    return standing.busy_ns / standing.rows * 1e-3 if standing.rows and standing.busy_ns else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def wish_of(query: Mapping[str, str]) -> Wish:
    """Return what the query of a request asks for. Raises ApiError for a name that is none of FIELDS, and for another value of `history`."""
    for name in query:
        if name not in FIELDS:
            message = f"{name[:100]}: expected {', '.join(FIELDS)}"
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", message, name[:100])
    history = query.get("history", "false")
    if history not in ("true", "false"):
        message = f"history: {history[:100]!r}: expected true or false"
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", message, "history")
    return Wish(query.get("model", ""), query.get("exchange", ""), query.get("symbol", ""), history == "true")
