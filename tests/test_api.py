"""The signatures of the Python API: the same options as the command line, by name."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import streamtrain
from streamtrain.config import SWEEP_FLAGS, TRAIN_FLAGS
from streamtrain.stream.torch_stream import STREAM_FLAGS

SIGNATURES = [
    pytest.param(streamtrain.sweep, SWEEP_FLAGS, {"out", "resume", "client", "report"}, id="sweep"),
    pytest.param(streamtrain.train, TRAIN_FLAGS, {"out", "resume", "client", "report"}, id="train"),
    pytest.param(streamtrain.open_stream, STREAM_FLAGS, {"drop_last"}, id="open_stream"),
]


@pytest.mark.parametrize(("function", "flags", "own"), SIGNATURES)
def test_keywords_are_the_flags_of_the_table(
    function: Callable[..., Any], flags: dict[str, str], own: set[str]
) -> None:
    path, *keywords = inspect.signature(function).parameters.values()
    assert path.name == "path"
    assert {keyword.name for keyword in keywords} == flags.keys() | own
    assert all(keyword.kind is inspect.Parameter.KEYWORD_ONLY for keyword in keywords)
    unset = {keyword.name: keyword.default for keyword in keywords if keyword.name not in own}
    assert unset == dict.fromkeys(flags)
    assert all(keyword.annotation is not inspect.Parameter.empty for keyword in keywords)


@pytest.mark.parametrize(("function", "flags", "own"), SIGNATURES)
def test_an_unknown_keyword_is_a_type_error(
    function: Callable[..., Any], flags: dict[str, str], own: set[str]
) -> None:
    with pytest.raises(TypeError, match="batch_sise"):
        function("data", batch_sise=64)
