"""`init`: a config from the columns of a data set; `config schema`: the schema in the package."""

import json
import re
from importlib.resources import files
from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamtrain.base.yaml_lines import parse_yaml
from streamtrain.cli.config_command import config_schema
from streamtrain.cli.config_layers import file_layer, resolve
from streamtrain.config import Config, config_keys

SCHEMA = files("streamtrain.cli").joinpath("config.schema.json")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def odd(tmp_path):
    """A file with names that YAML or a terminal could misread, nulls, and a column of text."""
    # The last two are refused as names of features.
    names = ["on", "2024", "a: b # c", "\x1b[31mred", "y\nz"]
    columns = {name: [1.0, 2.0, None] for name in names} | {
        "when": ["a", "b", "c"],
        "target": [1.0, 2.0, 4.0],
    }
    pq.write_table(pa.table(columns), tmp_path / "odd.parquet")
    return names


def test_the_config_names_the_columns_and_validates(command, odd):
    said = command("init", "odd.parquet")
    assert said.code == 0
    assert "next: streamtrain sweep -c streamtrain.yaml" in said.out
    config, origins = resolve(file_layer("streamtrain.yaml"))
    assert (config.data.path, config.data.target, list(config.data.features)) == (
        "odd.parquet",
        "target",
        odd[:3],
    )
    assert config.data.on_null == "impute"
    assert set(origins) == {"data.path", "data.target", "data.features", "data.on_null"}
    text = Path("streamtrain.yaml").read_text()
    assert "not used: when (string)" in text
    assert "\x1b" not in text
    assert "not used: \\x1b[31mred" in text
    assert ", 1 null" in text
    assert command("config", "validate", "streamtrain.yaml").code == 0
    again = command("init", "odd.parquet")
    assert again.code == 2
    assert "nothing is overwritten" in again.err


def test_every_line_that_is_commented_out_is_the_default(command, odd):
    """With every # removed, the config is the default one, so the comments are true."""
    text = command("init", "odd.parquet", "--features", "on", "--target", "2024", "--out", "-").out
    text = re.sub(r"^  # (\w+: .*?) +# .*$", r"  \1", text, flags=re.MULTILINE)
    values, _ = parse_yaml(text, "made.yaml")
    given = {
        f"{part}.{key}": value for part, section in values.items() for key, value in section.items()
    }
    assert set(given) == set(config_keys())
    config, default = Config.model_validate(values), Config()
    assert config.model_copy(update={"data": default.data}) == default
    assert (config.data.target, config.data.features) == ("2024", ("on",))


def test_the_schema_in_the_package_is_the_models():
    """After a change: `streamtrain config schema > streamtrain/cli/config.schema.json`."""
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == config_schema()
    jsonschema.Draft202012Validator.check_schema(config_schema())


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_configs_of_the_project_keep_to_the_schema(path):
    values, _ = parse_yaml(path.read_text(), path.name)
    jsonschema.Draft202012Validator(config_schema()).validate(values)
    resolve(file_layer(str(path)))


def test_the_schema_knows_what_the_config_refuses_and_takes(command, odd):
    validator = jsonschema.Draft202012Validator(config_schema())
    written, _ = parse_yaml(command("init", "odd.parquet", "-o", "-").out, "made.yaml")
    assert written["order"] is None  # an empty section counts as absent
    validator.validate(written)
    assert not validator.is_valid({"train": {"batchsize": 4}})
    assert not validator.is_valid({"train": {"optimizer": "adan"}})


@pytest.mark.parametrize(("size", "valid"), [(0, False), (2**62 + 1, False), ("auto", True)])
def test_the_schema_bounds_the_minibatch_size(size, valid):
    validator = jsonschema.Draft202012Validator(config_schema())
    assert validator.is_valid({"train": {"batch_size": size}}) == valid
    assert all(
        validator.is_valid({"train": {"batch_size": size}}) for size in (1, 1e6, 2**62, "64Ki")
    )


def test_columns_of_text_only_are_refused(command, tmp_path):
    pq.write_table(pa.table({"a": ["x"], "b": ["y"]}), tmp_path / "text.parquet")
    said = command("init", "text.parquet")
    assert said.code == 3
    assert "error: " in said.err
    assert not Path("streamtrain.yaml").exists()
