"""Properties of the learning-rate schedule, and the equality with the kernel's formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamtrain.config import TrainConfig
from streamtrain.errors import ConfigError
from streamtrain.kernels import updates
from streamtrain.training.schedule import rate_factors, schedule_rows

rows = st.integers(0, 10**10)


def factors(begins: list[int], count: int, warmup: int, cosine: int) -> list[float]:
    starts = np.array(begins)
    return rate_factors(starts, starts + count, warmup, cosine).tolist()


@given(begin=rows, count=st.integers(1, 10**6), warmup=rows, cosine=rows)
def test_the_kernel_has_the_same_formula(begin, count, warmup, cosine):
    (ours,) = factors([begin], count, warmup, cosine)
    assert updates.rate_factor(begin, begin + count, float(warmup), float(cosine)) == pytest.approx(
        ours, rel=1e-12, abs=1e-15
    )
    assert 0 <= ours <= 1
    assert (begin + count >= warmup) or ours <= (begin + count) / warmup
    assert not cosine or begin < cosine or ours == 0


@given(begins=st.lists(rows, min_size=2).map(sorted), cosine=st.integers(1, 10**10))
def test_it_rises_while_warm_and_falls_after(begins, cosine):
    warm = factors(begins, 1, 10**10 + 1, 0)
    cool = factors(begins, 1, 0, cosine)
    assert warm == sorted(warm)
    assert cool == sorted(cool, reverse=True)
    assert factors([0], 1, 0, cosine) == [1]
    assert factors(begins[:1], 1, 0, 0) == [1]


def test_rows_of_a_config():
    assert schedule_rows(TrainConfig(warmup_rows=100), None) == (100, 0)
    assert schedule_rows(TrainConfig(warmup_rows=100, schedule="cosine"), 5000) == (100, 5000)
    with pytest.raises(ConfigError, match="give --epochs or --max-rows"):
        schedule_rows(TrainConfig(schedule="cosine"), None)
