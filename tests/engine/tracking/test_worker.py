"""What MLflow is asked for a report, in this process: done once however often it is told, and aliases that someone else moved."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ModelError
from engine.tracking import load_model
from engine.tracking.follow import Moved
from engine.tracking.messages import Begin, Done, State
from engine.tracking.registry import Subject
from engine.tracking.worker import MlflowSide, flat
from tests.mlflow_reports import FEATURES, SUBJECT, report, state


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that MLflow made, which takes it seconds: once."""
    path: Path = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowSide(Begin(f"sqlite:///{path}", "other", (path.parent / "a").as_uri(), str(path.parent), "me", False))
    return path


@pytest.fixture
def side(template: Path, tmp_path: Path) -> MlflowSide:
    """MLflow's side over a SQLite file of its own."""
    shutil.copy(template, tmp_path / "mlflow.db")
    begin = Begin(f"sqlite:///{tmp_path / 'mlflow.db'}", "other", (tmp_path / "a").as_uri(), str(tmp_path), "me", False)
    return MlflowSide(begin)


def aliases(side: MlflowSide) -> dict[str, str]:
    return {alias: str(number) for alias, number in side.client.get_registered_model("ab.m_10t").aliases.items()}


def test_a_report_that_is_told_twice_changes_nothing_more(side: MlflowSide) -> None:
    one = report(
        states=(state("1", 30), state("2", 40)), aliases={"champion": "1", "challenger": "2", "previous": None}
    )
    assert side.answer(one).logged == 2
    again = MlflowSide(side.begin)  # after a restart
    assert again.answer(one) == side.answer(one) == Done()
    found = side.client
    assert len(found.search_model_versions("name='ab.m_10t'")) == 2
    assert aliases(side) == {"champion": "1", "challenger": "2"}
    runs = found.search_runs([side.experiment])
    assert len(runs) == 1
    assert len(found.get_metric_history(runs[0].info.run_id, "predictions")) == 1


def test_an_alias_goes_away_with_the_version_that_it_named(side: MlflowSide) -> None:
    side.answer(report(states=(state("1", 30), state("2", 40)), aliases={"champion": "1", "challenger": "2"}))
    side.answer(report(2, aliases={"champion": "2", "challenger": None, "previous": "1"}))
    assert aliases(side) == {"champion": "2", "previous": "1"}


def test_another_exchange_with_the_same_symbol_gets_a_name_of_its_own(side: MlflowSide) -> None:
    for exchange in ("x", "y", "x"):
        side.answer(report(subject=Subject(exchange, "A/B", "m", "10t"), states=(state("1", 30),)))
    assert sorted(side.record.models) == ["ab.m_10t", "ab.y.m_10t"]
    assert side.record.models["ab.y.m_10t"].subject.exchange == "y"
    side.client.set_registered_model_tag("ab.y.m_10t", "tickfold.symbol", "someone else's")
    side.record.models.clear()
    done = side.answer(report(subject=Subject("y", "A/B", "m", "10t"), states=(state("1", 31),)))
    assert done.is_lasting
    assert "ab.m_10t and ab.y.m_10t: registered in MLflow for something else than y:A/B m" in done.error


def test_a_moved_alias_is_followed_only_to_a_version_that_this_engine_logged(side: MlflowSide) -> None:
    name, found = "ab.m_10t", side.client
    side.answer(report(states=(state("1", 30), state("2", 40)), aliases={"champion": "1"}))
    assert side.follow().moved == ()
    found.set_registered_model_alias(name, "champion", "2")
    (moved,) = side.follow().moved
    assert moved == Moved(SUBJECT, name, "2", "2", "")
    assert moved.target == "m@2 x:A/B"
    assert side.follow().moved == (), "a move is told once"
    # Somebody else's version, with the tags of ours.
    ours = found.get_model_version(name, "2")
    found.create_model_version(name, ours.source, run_id=ours.run_id, tags=ours.tags)
    found.set_registered_model_alias(name, "champion", "3")
    (moved,) = side.follow().moved
    assert (moved.version, moved.reason) == ("", "this engine did not log that version")
    # One of ours, whose tags say that it is something else by now.
    found.set_model_version_tag(name, "1", "tickfold.state", "0" * 64)
    found.set_registered_model_alias(name, "champion", "1")
    (moved,) = side.follow().moved
    assert (moved.version, moved.reason[:13]) == ("", "its tags are ")


def test_a_move_outlives_the_next_report_of_an_engine_that_follows(side: MlflowSide) -> None:
    name, found = "ab.m_10t", side.client
    side.answer(report(states=(state("1", 30), state("2", 40)), aliases={"champion": "1"}))
    found.set_registered_model_alias(name, "champion", "2")
    done = side.answer(report(2, aliases={"champion": "1"}, is_following=True))
    assert [moved.version for moved in done.moved] == ["2"]
    assert aliases(side)["champion"] == "2"
    found.set_registered_model_alias(name, "champion", "2")
    assert side.answer(report(3, aliases={"champion": "1"})).moved == (), "one that does not follow says what is"
    assert aliases(side)["champion"] == "1"


def test_a_run_or_a_model_that_was_deleted_over_there_is_made_anew(side: MlflowSide) -> None:
    found = side.client
    side.answer(report(states=(state("1", 30),), aliases={"champion": "1"}))
    found.delete_run(found.search_runs([side.experiment])[0].info.run_id)
    found.delete_registered_model("ab.m_10t")
    done = side.answer(report(2, states=(state("1", 30),), aliases={"champion": "1"}))
    assert (done.error, done.logged) == ("", 1)
    assert aliases(side) == {"champion": "1"}


def test_a_river_model_travels_as_a_pickle_and_loads_only_where_that_is_allowed(side: MlflowSide) -> None:
    from river import naive_bayes

    make: Any = naive_bayes.GaussianNB
    model = make()
    for at in range(9):
        model.learn_one(dict.fromkeys(FEATURES, float(at)), at % 3)
    spec = {"river": "naive_bayes.GaussianNB"}
    told = report(states=(State("1", 9, 9, spec, b"", pickle.dumps(model)),), aliases={"champion": "1"})
    assert side.answer(told).logged == 1
    with pytest.raises(ModelError, match="pickled River object"):
        load_model("models:/ab.m_10t@champion")
    again = load_model("models:/ab.m_10t@champion", allow_pickle=True)
    x = dict.fromkeys(FEATURES, 1.0)
    assert again.predict_proba_one(x) == model.predict_proba_one(x)


def test_a_record_that_cannot_be_read_is_named(side: MlflowSide) -> None:
    side.path.write_text("{")
    with pytest.raises(ModelError, match=r"logged-.*json: .*delete it"):
        MlflowSide(side.begin)


def test_scores_become_metrics_by_joined_names() -> None:
    given = {
        "n": 3,
        "skill": 0.5,
        "interval": [0.1, 0.9],
        "trivial": [],
        "curve": [1.0, 2.0],
        "best": "majority",
        "none": None,
    }
    assert flat({**given, "baselines": {"majority": 0.2}}) == {
        "n": 3.0, "skill": 0.5, "interval/low": 0.1, "interval/high": 0.9, "baselines/majority": 0.2,
    }  # fmt: skip
