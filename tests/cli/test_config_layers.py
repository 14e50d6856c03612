import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.cli.config_layers import (
    Setting,
    environment_layer,
    file_layer,
    path_layer,
    resolve,
    set_layer,
)
from streamtrain.config import Config, config_keys
from streamtrain.errors import ConfigError

KEYS = ["train.batch_size", "order.seed", "sweep.trials"]


@given(
    st.lists(
        st.dictionaries(st.sampled_from(KEYS), st.integers(1, 9), max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_the_last_layer_that_sets_a_key_wins_and_is_its_origin(layers):
    config, origins = resolve(
        *(
            {key: Setting(value, f"layer {i}") for key, value in layer.items()}
            for i, layer in enumerate(layers)
        )
    )
    for key in KEYS:
        section, name = key.split(".")
        setting = [(i, layer[key]) for i, layer in enumerate(layers) if key in layer]
        default = getattr(getattr(Config(), section), name)
        assert getattr(getattr(config, section), name) == (setting[-1][1] if setting else default)
        assert origins.get(key) == (f"layer {setting[-1][0]}" if setting else None)


@pytest.fixture
def sweep_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = (
        "train:",
        "  batch_size: 1",
        "  lr: 1e-3",
        "order:",
        "  seed: 1",
        "fetch:",
        "  readers: 1",
        "model:  # nothing yet",
    )
    (tmp_path / "sweep.yaml").write_text("\n".join(lines))


def test_precedence_and_origins_as_config_show_prints_them(command, sweep_yaml, monkeypatch):
    monkeypatch.setenv("STREAMTRAIN_TRAIN__BATCH_SIZE", "2Ki")
    monkeypatch.setenv("STREAMTRAIN_ORDER__SEED", "2")
    monkeypatch.setenv("STREAMTRAIN_HOME", "is not a key")
    said = command(
        "--set",
        "order.seed=3",
        "config",
        "show",
        "-c",
        "sweep.yaml",
        "--set=train.beta1=0.8",
        "--lr",
        "0.5",
        "--json",
    )
    document = json.loads(said.out)
    assert set(document) == set(config_keys())
    assert document["train.batch_size"] == {
        "value": 2048,
        "origin": "STREAMTRAIN_TRAIN__BATCH_SIZE",
    }
    assert document["order.seed"] == {"value": 3, "origin": "--set order.seed"}
    assert document["train.beta1"] == {"value": 0.8, "origin": "--set train.beta1"}
    assert document["train.lr"] == {"value": 0.5, "origin": "--lr"}
    assert document["fetch.readers"] == {"value": 1, "origin": "sweep.yaml:7"}
    assert document["sweep.lr_grid"] == {"value": 5, "origin": "default"}


def test_config_show_prints_a_config_file_of_the_same_config(command, sweep_yaml, tmp_path):
    flags = "--hidden", "", "--holdout", "0.1", "--target-loss", "0.1", "--target-loss", "0.2"
    said = command("config", "show", "data/*.parquet", "-c", "sweep.yaml", *flags)
    (tmp_path / "again.yaml").write_text(said.out)
    config, _ = resolve(file_layer("again.yaml"))
    assert (
        config.data.path,
        config.model.hidden,
        config.data.holdout,
        config.sweep.target_loss,
    ) == ("data/*.parquet", (), 0.1, (0.1, 0.2))
    assert command("config", "show", "-c", "again.yaml", "--json").out.count('"default"') == 0
    assert yaml.safe_load(said.out)["data"]["path"] == "data/*.parquet"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "data:\n\ntrain:\n  batchsize: 3",
            "a.yaml:4: train.batchsize: unknown key. Did you mean train.batch_size?",
            id="key",
        ),
        pytest.param(
            "trian:\n  lr: 3",
            "a.yaml:2: trian.lr: unknown key. Did you mean train.lr?",
            id="unknown section",
        ),
        pytest.param(
            "trian: {}",
            "a.yaml:1: trian: unknown key. Did you mean train",
            id="unknown section without keys",
        ),
        pytest.param(
            "batch_size: 3",
            "a.yaml:1: batch_size: unknown key. Did you mean train.batch_size?",
            id="key without section",
        ),
        pytest.param(
            "train: 3",
            "a.yaml:1: train is a section; give one of its keys, like train.batch_size",
            id="section without key",
        ),
        pytest.param(
            "train:\n  lr: -3",
            "a.yaml:2: train.lr: Input should be greater than 0 (got -3)",
            id="value",
        ),
        pytest.param("train:\n  lr: [", "a.yaml:3: not YAML: ", id="not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(command, tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text + "\n")
    for tokens in (["config", "validate", "a.yaml"], ["sweep", "d", "-c", "a.yaml"]):
        said = command(*tokens)
        assert said.code == 2
        assert not said.out
        assert said.err.startswith(f"error: {message}")
        assert said.err.count("\n") == 1


def test_every_wrong_key_is_listed(command, tmp_path):
    (tmp_path / "a.yaml").write_text("train:\n  lr: -1\n  beta1: 2\n")
    assert command("config", "validate", "a.yaml").err.splitlines() == [
        "error: a.yaml:2: train.lr: Input should be greater than 0 (got -1)",
        "error: a.yaml:3: train.beta1: Input should be less than 1 (got 2)",
    ]


def test_text_is_read_as_on_a_flag():
    assigned = set_layer(
        ["data.target=2024", "model.hidden=[8, 8]", "train.lr=null", "data.path=a=b"]
    )
    config, _ = resolve(
        path_layer("data"), environment_layer({"STREAMTRAIN_DATA__STANDARDIZE": "off"}), assigned
    )
    assert (config.data.target, config.data.path, config.data.standardize) == ("2024", "a=b", False)
    assert (config.model.hidden, config.train.lr) == ((8, 8), None)
    with pytest.raises(ConfigError, match=r"--set train.lr: write it like"):
        set_layer(["train.lr"])


def test_the_demo_config_is_valid_and_fits_the_schema(command):
    demo = Path(__file__).parents[2] / "configs" / "demo.yaml"
    assert command("config", "validate", demo).code == 0
    schema = json.loads(command("config", "schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(demo.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"train": {"batchsize": 1}}, schema)


def test_a_flag_for_rows_replaces_a_files_epochs(tmp_path):
    """Both set the length of a run; only together in one layer do they contradict each other."""
    (tmp_path / "a.yaml").write_text("train: {epochs: 3}\n")
    config, _ = resolve(file_layer(str(tmp_path / "a.yaml")), set_layer(["train.max_rows=50k"]))
    assert (config.train.epochs, config.train.max_rows) == (None, 50_000)
