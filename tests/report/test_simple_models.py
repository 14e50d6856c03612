"""Warnings of simple models that do as well as the network."""

from dataclasses import replace

import pytest

from streamtrain.report.summary import analyze
from streamtrain.report.text.simple_models import of_simple_models
from streamtrain.science.run_log import collect
from tests.report.synthetic import make_records


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("casual",), "A linear model of casual gives"),
        (("casual", "registered"), "A linear model of casual and registered gives"),
        (("a", "b", "c"), "A linear model of a, b and c gives"),
        (("a", "b", "c", "d", "e"), "A linear model of a, b, c and 2 more gives"),
    ],
)
def test_features_that_make_the_target_are_named(names, text):
    """It replaces the advice to train longer, which would not help."""
    run = collect(make_records())
    assert not any("linear model of" in warning for warning, _ in of_simple_models(analyze(run)))
    run.baseline = replace(run.baseline, exact_features=names)
    (found,) = [pair for pair in of_simple_models(analyze(run)) if "linear model" in pair[0]]
    assert found[0].startswith(text)
    assert found[1] == "--features"


@pytest.mark.parametrize(
    ("verb", "start"), [("sweep", "No size is"), ("train", "The model is not")]
)
def test_a_training_has_one_model_and_no_sizes(verb, start):
    run = collect(make_records((256,), verb=verb))
    loss = run.baseline.best_linear_loss
    run.baseline = replace(run.baseline, best_linear_loss=replace(loss, value=1e-9))
    (found,) = [text for text, _ in of_simple_models(analyze(run)) if "linear" in text]
    assert found.startswith(f"{start} better than")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("tax",), "explained by tax alone."),
        (("tax", "m"), "explained by each of tax and m alone."),
    ],
)
def test_a_feature_that_nearly_is_the_target_is_named(names, text):
    run = collect(make_records())
    run.baseline = replace(run.baseline, near_features=names)
    (found,) = [pair for pair in of_simple_models(analyze(run)) if "alone" in pair[0]]
    assert text in found[0]
    assert found[1] == "--features"
