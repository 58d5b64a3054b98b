"""What a command to models did to each key, told from how they stood before and after it."""

from __future__ import annotations

from typing import Any

import pytest

from engine.cli.models import effects_of


def standing(symbol: str, champion: str, *, pinned: bool = False) -> dict[str, Any]:
    return {"exchange": "x", "symbol": symbol, "champion": champion, "pinned": pinned}


@pytest.mark.parametrize(
    ("verb", "version", "before", "after", "effects"),
    [
        ("promote", "2", "1", "2", ["1 -> 2"]),
        ("promote", "1", "1", "1", ["1 is the champion already"]),
        ("rollback", "", "2", "1", ["2 -> 1"]),
        ("rollback", "", "1", "1", ["nothing to roll back"]),
    ],
)
def test_a_champion_changed_or_there_was_nothing_to_do(
    verb: str, version: str, before: str, after: str, effects: list[str]
) -> None:
    found = effects_of(verb, version, [standing("A", before)], [standing("A", after)], ("", ""))
    assert [one["effect"] for one in found] == effects
    assert [one["promoted"] for one in found] == [before != after]


def test_pinning_is_told_and_so_is_what_was_so_already() -> None:
    loose, held = standing("A", "1"), standing("A", "1", pinned=True)
    told = [
        effects_of(verb, version, [before], [after], ("", ""))[0]["effect"]
        for verb, version, before, after in (
            ("pin", "", loose, held),
            ("pin", "", held, held),
            ("unpin", "", held, loose),
            ("pin", "2", loose, standing("A", "2", pinned=True)),
        )
    ]
    assert told == ["pinned", "pinned already", "not pinned", "1 -> 2, pinned"]


def test_of_other_keys_only_what_changed_is_told() -> None:
    before = [standing("A", "1"), standing("B", "1"), standing("C", "2")]
    after = [standing("A", "2"), standing("B", "2"), standing("C", "2"), standing("NEW", "1")]
    found = effects_of("promote", "2", before, after, ("x", "A"))
    assert [one["symbol"] for one in found] == ["A", "B"]
