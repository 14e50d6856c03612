"""YAML 1.2 scalars, the line of every key, and refused documents."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.base.yaml_lines import parse_scalar, parse_yaml, read_yaml
from streamtrain.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("1e-3", 0.001, id="exponent without point"),
        pytest.param("-.5", -0.5, id="no leading zero"),
        pytest.param("on", "on", id="on"),
        pytest.param("off", "off", id="off"),
        pytest.param("yes", "yes", id="yes"),
        pytest.param("no", "no", id="no"),
        pytest.param("true", True, id="true"),
        pytest.param("10:30", "10:30", id="not base 60"),
        pytest.param("010", 10, id="not octal"),
        pytest.param("2026-11-22", "2026-11-22", id="not a date"),
        pytest.param("1_000", "1_000", id="underscore is text"),
        pytest.param("64..1Mi*4,1M", "64..1Mi*4,1M", id="sizes"),
        pytest.param("~", None, id="null"),
        pytest.param("", None, id="empty"),
        pytest.param("'5'", "5", id="quoted"),
        pytest.param("-.inf", -math.inf, id="infinity"),
        pytest.param("[32, 32]", [32, 32], id="list"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    assert parse_yaml(f"a: {text}", "f.yaml")[0] == {"a": value}


words = st.text("abcdefgh", min_size=1, max_size=5)
# No digits: PyYAML does not quote text like `1e3`, which is a number in YAML 1.2.
texts = st.text("aeinoxyY~:#-'\"[]{}!*&|>, ", max_size=9)
plain = (
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | texts
)


@given(
    st.dictionaries(
        words, st.dictionaries(words, plain | st.lists(plain, max_size=3), max_size=3), max_size=3
    )
)
def test_what_pyyaml_writes_is_read_back_with_an_origin_for_every_key(values):
    text = yaml.safe_dump(values)
    parsed, origins = parse_yaml(text, "f.yaml")
    assert parsed == values
    lines = text.splitlines()
    for section in values:
        for key in values[section]:
            name, line = origins[f"{section}.{key}"].split(":")
            assert name == "f.yaml"
            assert lines[int(line) - 1].lstrip().startswith(key)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "train:\n  lr: 1\n  lr: 2",
            "f.yaml:3: train.lr: given twice; the first is at f.yaml:2",
            id="repeated key",
        ),
        pytest.param("a: &x 1\nb: *x", "f.yaml:1: not YAML: anchors", id="anchor"),
        pytest.param("a: [1", "f.yaml:1: not YAML", id="open bracket"),
        pytest.param(
            "x: 1\na: !!python/object/apply:os.system [ls]",
            "f.yaml:2: not YAML: could not determine a constructor",
            id="python tag",
        ),
        pytest.param("- 1", "f.yaml:1: a config is sections", id="list"),
        pytest.param("[" * 5000, "f.yaml: not YAML", id="deep"),
        pytest.param("a: \x00", "f.yaml: not YAML: unacceptable character", id="control character"),
    ],
)
def test_what_is_refused_says_where(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    for name, reason in (
        ("absent.yaml", "No such file"),
        ("latin.yaml", "not UTF-8"),
        (".", "directory"),
    ):
        with pytest.raises(ConfigError, match=reason):
            read_yaml(tmp_path / name)


def test_an_empty_file_sets_nothing():
    assert parse_yaml("# yaml-language-server: $schema=x.json\n", "f.yaml") == ({}, {})


def test_text_that_is_not_yaml_stays_text():
    for text in ("[1", "*x", "a: b: c", "'"):
        assert parse_scalar(text) == text
