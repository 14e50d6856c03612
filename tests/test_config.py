"""The config: flags, defaults, notations of values, and messages for refused values."""

import json

import jsonschema
import pytest

from streamtrain.config import (
    SWEEP_FLAGS,
    TRAIN_FLAGS,
    Config,
    TrainConfig,
    config_keys,
    flag_values,
    make_config,
    merge,
    set_key,
)
from streamtrain.errors import ConfigError


def test_every_flag_names_a_key_and_every_key_has_a_description():
    keys = config_keys()
    assert set(SWEEP_FLAGS.values()) | set(TRAIN_FLAGS.values()) <= set(keys)
    assert all(field.description for field in keys.values())


def test_the_defaults_are_a_config_and_its_dump_makes_the_same_one():
    config = make_config({})
    assert (
        config
        == Config()
        == make_config(config.model_dump())
        == make_config(json.loads(config.model_dump_json()))
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param(
            {"train": {"batchsize": 1}},
            "f:3: train.batchsize: unknown key. Did you mean train.batch_size?",
            id="did you mean",
        ),
        pytest.param(
            {"train": {"batch_size": "1x"}},
            "f:3: train.batch_size: '1x': unknown unit 'x'",
            id="unit",
        ),
        pytest.param(
            {"train": {"batch_size": "1e99"}},
            "f:3: train.batch_size: sizes are whole numbers from 1 to 2^62",
            id="too many",
        ),
        pytest.param(
            {"sweep": {"batch_sizes": "64,1e99"}},
            "f:3: sweep.batch_sizes: '64,1e99': minibatch sizes are whole numbers from 1 to 2^62",
            id="too large",
        ),
        pytest.param(
            {"train": {"lr": -1}},
            "f:3: train.lr: Input should be greater than 0 (got -1)",
            id="range",
        ),
        pytest.param({"train": {"lr": float("nan")}}, "f:3: train.lr: ", id="nan"),
        pytest.param(
            {"train": {"optimizer": "adan"}},
            "f:3: train.optimizer: Input should be 'adam', 'adamw' or 'sgd'",
            id="choice",
        ),
        pytest.param(
            {"train": {"epochs": 1, "max_rows": 5}},
            "train: epochs and max_rows both set the length of a run",
            id="twice",
        ),
        pytest.param(
            {"sweep": {"batch_sizes": "8..4"}},
            "f:3: sweep.batch_sizes: '8..4' is not a range",
            id="sizes",
        ),
        pytest.param(
            {"train": {"batch_size": "AUTO"}},
            "f:3: train.batch_size: write rows like 256 or 64Ki, or auto (got 'AUTO')",
            id="auto in capitals",
        ),
        *(
            pytest.param(
                {"train": {"device": name}},
                "f:3: train.device: write auto, cpu, cuda, or cuda:N for one of several GPUs (got"
                f" {name!r})",
                id=f"device {name}",
            )
            for name in ("CUDA", "cuda:", "gpu", "cpu:0", "cuda:0\n")
        ),
        pytest.param(
            {"sweep": {"batch_sizes": "AUTO"}},
            "f:3: sweep.batch_sizes: write sizes like 64,1024 or 64..1Mi*4, or auto (got 'AUTO')",
            id="sizes in words",
        ),
        pytest.param(
            {"sweep": {"budget": "soon"}},
            "f:3: sweep.budget: 'soon' is not a budget. Write it like 60s, 5m or 100M rows",
            id="budget",
        ),
        pytest.param(
            {"sweep": {"budget": "5min"}},
            "f:3: sweep.budget: '5min' is not a budget. Write it like 60s, 5m or 100M rows",
            id="budget of another unit",
        ),
        pytest.param(
            {"sweep": {"budget": "12"}},
            "f:3: sweep.budget: a budget of 12 is 12 rows, too few to compare sizes. Write 12s",
            id="budget of a few rows",
        ),
        pytest.param(
            {"sweep": {"target_loss": 0.1, "target_rmse": 2.0}},
            "sweep: target_loss and target_rmse both set the target; give one",
            id="two targets",
        ),
        pytest.param(
            {"train": {"batch_schedule": "32@0,64@0"}},
            "f:3: train.batch_schedule: write size@rows with ascending rows, the first 0, like",
            id="rows that do not ascend",
        ),
        pytest.param(
            {"train": {"batch_schedule": "32@1"}},
            "f:3: train.batch_schedule: write size@rows",
            id="no first size",
        ),
        pytest.param(
            {"train": {"batch_schedule": "0@0"}},
            "f:3: train.batch_schedule: sizes are whole numbers from 1 to 2^62",
            id="no rows",
        ),
        pytest.param(
            {"train": {"batch_schedule": "32@0", "batch_size": "auto"}},
            "train: batch_schedule and batch_size auto both set the sizes; give one",
            id="two rules for the sizes",
        ),
        pytest.param(
            {"train": {"batch_schedule": "32@0", "batch_size": 64}},
            "train: batch_schedule begins with 32 rows, and batch_size is 64; give one of them",
            id="two first sizes",
        ),
        pytest.param(
            {"train": {"average_fraction": 0}},
            "f:3: train.average_fraction: Input should be greater than 0",
            id="no span of an average",
        ),
    ],
)
def test_what_is_refused_names_key_origin_and_remedy(values, message):
    origins = {f"{section}.{key}": "f:3" for section, keys in values.items() for key in keys}
    with pytest.raises(ConfigError) as caught:
        make_config(values, origins)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        pytest.param("model.hidden", "", (), id="linear"),
        pytest.param("model.hidden", "64,64", (64, 64), id="widths"),
        pytest.param("data.features", "a, b", ("a", "b"), id="names"),
        pytest.param("data.standardize", "off", False, id="off"),
        pytest.param("data.holdout", "0.1", 0.1, id="fraction"),
        pytest.param("data.holdout", "64Ki", 65536, id="rows"),
        pytest.param("data.holdout", "0", 0, id="none held out"),
        pytest.param("sweep.lr_grid", "5", 5, id="how many rates"),
        pytest.param("sweep.lr_grid", "0.001,1e-2", (0.001, 0.01), id="rates"),
        pytest.param("sweep.target_loss", "0.1,0.2", (0.1, 0.2), id="targets"),
        pytest.param("fetch.memory", "2GiB", 2**31, id="bytes"),
        pytest.param("train.max_time", "10m", 600.0, id="minutes"),
        pytest.param("train.max_rows", "100M", 10**8, id="rows to train on"),
        pytest.param(
            "train.batch_schedule",
            "32@0, 1Ki@65k",
            ((32, 0), (1024, 65_000)),
            id="sizes that change",
        ),
        pytest.param("train.batch_size", "1Ki", 1024, id="a size"),
        pytest.param("train.batch_size", "auto", "auto", id="sizes that follow the rows"),
        pytest.param("sweep.batch_sizes", "auto", None, id="sizes that the sweep chooses"),
    ],
)
def test_values_are_read_as_people_write_them(key, text, value):
    values = {}
    set_key(values, key, text)
    section, name = key.split(".")
    assert getattr(getattr(make_config(values), section), name) == value
    jsonschema.validate(values, Config.model_json_schema())


def test_a_schedule_sets_the_first_size_and_its_dump_makes_the_same_config():
    config = make_config({"train": {"batch_schedule": [[32, 0], "128@1k"]}})
    assert config.train.batch_size == 32
    assert config == make_config(json.loads(config.model_dump_json()))


def test_flags_that_are_not_given_set_nothing_and_unknown_ones_are_refused():
    assert flag_values({"lr": 0.1, "seed": None}, TRAIN_FLAGS) == {"train": {"lr": 0.1}}
    with pytest.raises(ConfigError, match="batch_sizes"):
        flag_values({"batch_size": 1}, SWEEP_FLAGS)


def test_merge_leaves_its_layers_alone():
    low, high = {"a": {"b": 1}}, {"a": {"c": 2}, "d": 3}
    assert merge(low, high) == {"a": {"b": 1, "c": 2}, "d": 3}
    assert low == {"a": {"b": 1}}
    with pytest.raises(ConfigError, match="not a section"):
        set_key({"a": 1}, "a.b", 2)


def test_a_beta2_that_float32_cannot_forget_by_is_refused():
    """0.99995 per 1,024 rows is 5e-8 per row, with which the second moment never decreased."""
    for beta2, size, per in (
        (0.99995, 1, "1024 rows"),
        (0.9999, 1, "1024 rows"),
        (1 - 1e-8, 1024, "step"),
    ):
        with pytest.raises(ConfigError, match="forget"):
            TrainConfig(beta2=beta2, beta2_per=per).at(size)
    assert TrainConfig().at(1).beta2 == 0.999 ** (1 / 1024)
    assert TrainConfig(beta2=0.9999, beta2_per="step").at(1).beta2 == 0.9999
    assert TrainConfig(beta2=0.99995).at(8).beta2 < 1
    assert TrainConfig(optimizer="sgd", beta2=0.999999).at(1)
