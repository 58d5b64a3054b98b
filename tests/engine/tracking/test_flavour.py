"""Models as files and as MLflow models: the same bits after a round trip, and no pickle unless somebody says so."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.models.compiled import CompiledModel
from engine.tracking import KeptModel, keep, load_model, save_model
from engine.tracking.state import ask, of_npz, read_description, to_npz

FEATURES = ("market:side", "technical:rsi_14", "derived:volatility_index")
DIRECTION = ("down", "flat", "up")
ALGORITHMS: dict[str, tuple[dict[str, Any], int, tuple[str, ...]]] = {
    "softmax": ({"algorithm": "scaled_softmax", "lr": 0.01}, 3, DIRECTION),
    "logistic": ({"algorithm": "scaled_logistic"}, 2, ("down", "up")),
    "linear": ({"algorithm": "scaled_linear", "optimizer": "nlms", "lr": 0.002}, 1, ()),
}


def rows(count: int, seed: int = 1) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((count, len(FEATURES))) * (1.0, 40.0, 1e-3)


def taught(name: str = "softmax", count: int = 300) -> CompiledModel:
    algorithm, outputs, _ = ALGORITHMS[name]
    model = CompiledModel(algorithm, FEATURES, outputs)
    for at, row in enumerate(rows(count)):
        model.learn_row(row, at % outputs if outputs > 1 else row[0] * 0.1)
    return model


def taught_tree() -> Any:
    from river import tree

    model: Any = tree.HoeffdingTreeClassifier(grace_period=20)
    for row in rows(300):
        model.learn_one(dict(zip(FEATURES, row.tolist(), strict=True)), int(row[0] > 0.0) + int(row[0] > 0.5))
    return model


def pyfunc(path: Path, **how: Any) -> Any:
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(path), **how)


def table(values: npt.NDArray[np.float64], names: tuple[str, ...] = FEATURES) -> Any:
    import pandas as pd

    return pd.DataFrame(values, columns=list(names))


# Files ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_compiled_model_goes_on_learning_from_its_files_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, classes = taught(name), ALGORITHMS[name][2]
    keep(model, classes=classes, target="t", horizon="60s").write(tmp_path / "kept")
    again = KeptModel.read(tmp_path / "kept").model()
    for at, row in enumerate(rows(50, seed=2)):
        assert again.predict_row(row).tobytes() == model.predict_row(row).tobytes()
        for one in (model, again):
            one.learn_row(row, at % model.outputs if classes else row[1])
    assert again.arrays()["state"].tobytes() == model.arrays()["state"].tobytes()


@given(
    st.dictionaries(
        st.sampled_from(["state", "labels", "n"]),
        st.lists(st.floats(width=64), max_size=5).map(np.array) | st.just(np.arange(3)),
    )
)
@settings(max_examples=30)
def test_arrays_come_out_of_an_npz_as_they_went_in(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    data = to_npz(arrays)
    assert data == to_npz(arrays), "the same arrays give the same bytes"
    found = of_npz(data, "here")
    assert {name: (one.dtype, one.tobytes()) for name, one in found.items()} == {
        name: (one.dtype, one.tobytes()) for name, one in arrays.items()
    }


def test_an_object_in_an_npz_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    np.savez(path, state=np.array([Bomb()], dtype=object))
    with pytest.raises(ModelError, match="without pickle"):
        of_npz(path.read_bytes(), "here")


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was loaded",)


def test_a_state_that_is_not_what_was_written_is_refused(tmp_path: Path) -> None:
    keep(taught(), classes=DIRECTION).write(tmp_path)
    state = tmp_path / "state.npz"
    state.write_bytes(state.read_bytes().replace(b"NUMPY", b"NUMPI"))
    with pytest.raises(ModelError, match="its hash is"):
        KeptModel.read(tmp_path)
    state.unlink()
    with pytest.raises(ModelError, match="No such file"):
        KeptModel.read(tmp_path)


def test_a_description_that_is_not_one_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.json: No such file"):
        read_description(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model\.json: Object missing required field"):
        read_description(tmp_path)
    keep(taught(), classes=DIRECTION).write(tmp_path)
    told = json.loads((tmp_path / "model.json").read_bytes())
    (tmp_path / "model.json").write_text(json.dumps({**told, "format": 2}))
    with pytest.raises(ModelError, match="format 2"):
        read_description(tmp_path)


def test_what_a_model_lacks_is_named() -> None:
    with pytest.raises(ModelError, match="names of its features"):
        KeptModel(features=(), algorithm={}, pickled=b"")
    with pytest.raises(ModelError, match="before the first row names the features"):
        keep(CompiledModel({"algorithm": "scaled_linear"}))
    with pytest.raises(ModelError, match="2 classes, expected its 3 outputs"):
        keep(taught(), classes=("down", "up"))
    with pytest.raises(ModelError, match="either arrays or a pickle"):
        KeptModel(features=FEATURES, algorithm={})


def test_two_schemas_with_one_hash_are_the_same() -> None:
    kept = keep(taught(), classes=DIRECTION, target="direction", horizon="60s")
    again = keep(taught(count=10), classes=DIRECTION, target="direction", horizon="60s")
    other = keep(taught(), classes=DIRECTION, target="direction", horizon="61s")
    assert kept.schema_hash == again.schema_hash != other.schema_hash


# MLflow models ----------------------------------------------------------------------------------------------------------------


def test_a_compiled_model_loads_and_is_asked_where_pickle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = taught()
    save_model(model, tmp_path / "m", classes=DIRECTION, target="direction", horizon="60s")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *_, **__: pytest.fail("a pickle was loaded"))
    given_rows = rows(5, seed=3)
    expected = [model.predict_row(row).tolist() for row in given_rows]
    assert [load_model(str(tmp_path / "m")).predict_row(row).tolist() for row in given_rows] == expected
    said = pyfunc(tmp_path / "m").predict(table(given_rows))
    assert said[list(DIRECTION)].to_numpy().tolist() == expected
    assert said["class"].tolist() == [DIRECTION[int(np.argmax(one))] for one in expected]
    assert not [*(tmp_path / "m").rglob("*.pkl")], "nothing of it is a pickle"


def test_rows_come_as_tables_with_columns_in_any_order_or_as_lists_of_dicts(tmp_path: Path) -> None:
    model = taught("linear")
    save_model(model, tmp_path / "m")
    loaded, given_rows = pyfunc(tmp_path / "m"), rows(4, seed=4)
    expected = [model.predict_row(row).item() for row in given_rows]
    assert loaded.predict(table(given_rows)[list(reversed(FEATURES))])["value"].tolist() == expected
    dicts = [dict(zip(FEATURES, row.tolist(), strict=True)) for row in given_rows]
    assert loaded.predict(dicts)["value"].tolist() == expected
    plain = loaded.unwrap_python_model()
    assert plain.predict(None, given_rows.tolist())["value"].tolist() == expected
    with pytest.raises(ModelError, match="rows of 2 numbers; expected 3"):
        plain.predict(None, given_rows[:, :2].tolist())
    with pytest.raises(ModelError, match="features market:side are missing"):
        plain.predict(None, table(given_rows[:, 1:], FEATURES[1:]))


def test_a_row_that_is_not_finite_gets_no_answer(tmp_path: Path) -> None:
    save_model(taught(), tmp_path / "m", classes=DIRECTION)
    given_rows = rows(3)
    given_rows[1, 2] = np.nan
    said = pyfunc(tmp_path / "m").predict(table(given_rows))
    assert said["up"].isna().tolist() == [False, True, False]
    assert said["class"].isna().tolist() == [False, True, False]


def test_the_flavour_says_what_a_model_is(tmp_path: Path) -> None:
    from importlib.metadata import version

    from mlflow.models import Model

    save_model(taught(), tmp_path / "m", classes=DIRECTION, target="direction", horizon="60s")
    saved = Model.load(str(tmp_path / "m"))
    flavour = saved.flavors["tickfold"]
    assert flavour["tickfold_version"] == version("tickfold")
    assert flavour["river_version"] == version("river")
    assert flavour["features"] == list(FEATURES)
    assert flavour["classes"] == list(DIRECTION)
    assert (flavour["target"], flavour["horizon"], flavour["kind"]) == ("direction", "60s", "compiled")
    kept = KeptModel.read(tmp_path / "m" / "artifacts" / "state")
    assert flavour["schema_hash"] == kept.schema_hash
    assert flavour["state_sha256"] == hashlib.sha256(kept.state()[1]).hexdigest()
    assert saved.signature is not None
    assert saved.signature.inputs.input_names() == list(FEATURES)
    assert saved.signature.outputs.input_names() == [*DIRECTION, "class"]
    assert (tmp_path / "m" / "input_example.json").is_file()
    wanted = (tmp_path / "m" / "requirements.txt").read_text().split()
    assert f"tickfold=={version('tickfold')}" in wanted
    assert all("==" in one for one in wanted)


def test_labels_name_the_classes_of_a_compiled_model_that_were_not_named(tmp_path: Path) -> None:
    model = CompiledModel({"algorithm": "scaled_softmax"})
    for at, row in enumerate(rows(60)):
        model.learn_one(dict(zip(FEATURES, row.tolist(), strict=True)), "abc"[at % 3])
    save_model(model, tmp_path / "m")
    said = pyfunc(tmp_path / "m").predict(table(rows(2)))
    assert list(said.columns) == ["a", "b", "c", "class"]
    assert said[["a", "b", "c"]].to_numpy().tolist() == [model.predict_row(row).tolist() for row in rows(2)]


# River objects ----------------------------------------------------------------------------------------------------------------


def test_a_river_object_is_saved_and_loaded_only_where_pickle_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = taught_tree()
    how: dict[str, Any] = {"features": FEATURES, "classes": DIRECTION}
    with pytest.raises(ModelError, match="HoeffdingTreeClassifier is kept as a pickle"):
        save_model(model, tmp_path / "m", **how)
    save_model(model, tmp_path / "m", allow_pickle=True, **how)
    with pytest.raises(ModelError, match="pickled River object"):
        load_model(str(tmp_path / "m"))
    with pytest.raises(ModelError, match="pickled River object"):
        pyfunc(tmp_path / "m")
    again = load_model(str(tmp_path / "m"), allow_pickle=True)
    given_rows = rows(20, seed=5)
    dicts = [dict(zip(FEATURES, row.tolist(), strict=True)) for row in given_rows]
    assert [again.predict_proba_one(x) for x in dicts] == [model.predict_proba_one(x) for x in dicts]
    said = pyfunc(tmp_path / "m", model_config={"allow_pickle": True}).predict(table(given_rows))
    kept = keep(model, allow_pickle=True, **how)
    assert said[list(DIRECTION)].to_numpy().tolist() == ask(model, kept, given_rows).tolist()
    assert np.allclose(said[list(DIRECTION)].sum(axis=1), 1.0)
    monkeypatch.setenv("MLFLOW_PYFUNC_INFERENCE_CONFIG", '{"allow_pickle": true}')  # what a server has for an argument
    assert pyfunc(tmp_path / "m").predict(table(given_rows)).equals(said)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with pytest.raises(ModelError, match="pickled River object"):
        load_model(str(tmp_path / "m"), allow_pickle=True)


def test_regressors_detectors_and_classifiers_without_names_of_river() -> None:
    from river import anomaly, linear_model, preprocessing

    x = dict(zip(FEATURES, rows(1)[0].tolist(), strict=True))
    line: Any = preprocessing.StandardScaler() | linear_model.LinearRegression()
    line.learn_one(x, 1.0)
    kept = keep(line, features=FEATURES, allow_pickle=True)
    assert ask(line, kept, rows(1)).tolist() == [[line.predict_one(x)]]
    detector: Any = anomaly.HalfSpaceTrees(seed=1, window_size=5)
    for row in rows(30):
        detector.learn_one(dict(zip(FEATURES, row.tolist(), strict=True)))
    kept = keep(detector, features=FEATURES, allow_pickle=True)
    assert ask(detector, kept, rows(1)).tolist() == [[detector.score_one(x)]]
    for model in (
        linear_model.LogisticRegression(),
        preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    ):
        with pytest.raises(ModelError, match="names of its classes"):
            keep(model, features=FEATURES, allow_pickle=True)


def test_a_pickle_that_does_not_load_says_what_is_expected() -> None:
    kept = KeptModel(features=FEATURES, algorithm={"river": "x"}, pickled=b"no pickle")
    with pytest.raises(ModelError, match="expected the version of River that made it"):
        kept.model(allow_pickle=True)


def test_a_model_of_another_flavour_is_refused(tmp_path: Path) -> None:
    from mlflow.models import Model

    Model(flavors={"other": {}}).save(str(tmp_path / "MLmodel"))
    with pytest.raises(ModelError, match="a model of other; expected the flavour tickfold"):
        load_model(str(tmp_path))
