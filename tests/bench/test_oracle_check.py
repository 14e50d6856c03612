"""The check passes on the real trainer, and fails on one with a wrong step."""

import numpy as np
import pytest

from streamtrain.bench import oracle_check as oracle


def test_the_trainer_passes():
    record = oracle.check_oracle()
    assert record["passed"]
    assert record["worst_standard_errors"] < 4
    assert "follows" in record["text"]
    assert [curve["batch_size"] for curve in record["curves"]] == [8, 64, 1024]
    for curve in record["curves"]:
        np.testing.assert_allclose(curve["measured"], curve["predicted"], rtol=0.4)


@pytest.mark.parametrize("wrong", ["rate", "mean"])
def test_a_wrong_step_is_found_out(wrong, monkeypatch):
    class Wrong(oracle.FusedEngine):
        def __init__(self, shape, parameters, batch_size, rates, train):
            super().__init__(
                shape,
                parameters,
                batch_size,
                tuple(1.05 * lr for lr in rates) if wrong == "rate" else rates,
                train,
            )

        def advance(self, block, start, stop):
            # "mean" loses a row of every call
            return super().advance(block, start + (wrong == "mean"), stop)

    monkeypatch.setattr(oracle, "FusedEngine", Wrong)
    record = oracle.check_oracle()
    assert not record["passed"]
    assert "does not follow" in record["text"]
