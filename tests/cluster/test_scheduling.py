"""Properties of leases and dispatch: every item once, whoever dies, hangs or answers late."""

from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamtrain.bench.simulated_backend import SimulatedBackend, WorkerModel
from streamtrain.cluster.backend import Failed, Finished
from streamtrain.cluster.scheduling import Leases, dispatch
from streamtrain.cluster.sweep_slices import SweepItem, expected_cost, sweep_items
from streamtrain.cluster.worker import WorkerSetupError
from streamtrain.cluster.worker_pool import WorkerPool
from streamtrain.errors import DataError, ResourceError


def run_all(costs: list[float], workers: int, model: WorkerModel, seed: int, **limits):
    """Have items done by simulated workers.

    Returns (results in the order in which they came, leases, backend).
    """
    leases = Leases(
        timeout_seconds=limits.pop("timeout_seconds", 100.0),
        max_attempts=limits.pop("max_attempts", 10**9),
        **limits,
    )
    for item, cost in enumerate(costs):
        leases.add(item, cost)
    backend = SimulatedBackend(workers, model, lambda payload: payload, seed=seed)
    done = []
    dispatch(
        WorkerPool(backend, no_workers_seconds=1e9),
        leases,
        lambda lease: (costs[lease.item], lease.item),
        lambda lease, result: done.append((lease.item, result)),
    )
    return done, leases, backend


@given(
    costs=st.lists(st.floats(0.1, 30), min_size=1, max_size=40),
    workers=st.integers(1, 9),
    seed=st.integers(0, 2**32),
    failure_seconds=st.sampled_from([0.0, 60.0, 300.0]),
    hang_share=st.sampled_from([0.0, 0.1]),
    error_share=st.sampled_from([0.0, 0.1]),
)
@settings(max_examples=150)
def test_every_item_is_done_exactly_once(
    costs, workers, seed, failure_seconds, hang_share, error_share
):
    model = WorkerModel(
        rows_per_second=1.0,
        failure_seconds=failure_seconds,
        return_seconds=5.0,
        hang_share=hang_share,
        hang_seconds=500.0,
        error_share=error_share,
    )
    done, leases, _ = run_all(costs, workers, model, seed)
    assert sorted(item for item, _ in done) == list(range(len(costs)))
    assert all(item == result for item, result in done)
    assert len(leases) == 0


@given(costs=st.lists(st.floats(0.1, 30), min_size=1, max_size=40), workers=st.integers(1, 9))
def test_no_worker_stands_idle_while_something_waits(costs, workers):
    """The makespan is then at most the mean load + (1 - 1/m) of the longest item (Graham 1966)."""
    _, _, backend = run_all(
        costs, workers, WorkerModel(rows_per_second=1.0, spread=0.0, latency_seconds=0.0), 0
    )
    assert (
        max(sum(costs) / workers, max(costs)) * (1 - 1e-9)
        <= backend.now()
        <= sum(costs) / workers + (1 - 1 / workers) * max(costs) + 1e-6
    )


def test_the_costliest_item_starts_first():
    leases = Leases(timeout_seconds=10)
    for item, cost in enumerate([1.0, 5.0, 3.0, 5.0]):
        leases.add(item, cost)
    assert [leases.lease(worker, 0.0).item for worker in "abcd"] == [1, 3, 2, 0]


def test_the_same_seed_gives_the_same_run():
    model = WorkerModel(rows_per_second=1.0, failure_seconds=50.0, hang_share=0.1)
    costs = [float(k % 7 + 1) for k in range(50)]
    assert (
        run_all(costs, 5, model, 3)[0]
        == run_all(costs, 5, model, 3)[0]
        != run_all(costs, 5, model, 4)[0]
    )


def test_a_late_or_second_result_is_discarded():
    leases = Leases(timeout_seconds=10, max_attempts=5)
    leases.add(0, 1.0)
    first = leases.lease("a", now=0.0)
    assert leases.lease("b", now=0.0) is None
    assert leases.fail(first.number, "no answer in time") is None
    second = leases.lease("b", now=11.0)
    assert leases.accept(second.number, 12.0) == second
    assert leases.accept(first.number, 13.0) is None
    assert leases.accept(second.number, 13.0) is None
    assert len(leases) == 0
    assert leases.discarded == 2
    assert leases.failures == 1


def test_a_slow_item_is_leased_a_second_time_and_the_first_answer_counts():
    leases = Leases(timeout_seconds=1000)
    for item in range(3):
        leases.add(item, 1.0)
    leases.accept(leases.lease("a", 0.0).number, 10.0)  # such an item takes 10 s
    slow = leases.lease("a", 10.0)
    assert leases.accept(leases.lease("b", 10.0).number, 20.0)
    assert leases.lease("b", 20.0) is None
    assert leases.next_check(20.0) == pytest.approx(50.0)
    backup = leases.lease("b", 51.0)
    assert backup.item == slow.item
    assert leases.lease("c", 52.0) is None
    assert leases.lease("c", 500.0) is None
    assert leases.accept(backup.number, 60.0) == backup
    assert leases.accept(slow.number, 61.0) is None


def test_an_item_of_next_to_no_cost_has_no_say_in_what_is_slow():
    leases = Leases(timeout_seconds=1000)
    for item, cost in enumerate([1000.0, 1e-3, 1e9]):
        leases.add(item, cost)
    leases.withdraw(2)
    assert leases.accept(leases.lease("a", 0.0).number, 2.0).cost == 1000.0
    assert leases.accept(leases.lease("a", 0.0).number, 3.0).cost == 1e-3
    leases.add(3, 1000.0)
    slow = leases.lease("a", 10.0)
    assert leases.lease("b", 17.0) is None
    assert leases.lease("b", 35.0).item == slow.item


def test_too_many_failures_end_the_run_and_an_item_that_kills_its_workers_is_given_up():
    leases = Leases(timeout_seconds=10, max_failures=2, max_attempts=2)
    leases.add(0, 1.0)
    leases.add(1, 1.0)
    assert leases.fail(leases.lease("a", 0).number, "gone") is None
    given_up = leases.fail(leases.lease("a", 0).number, "gone")
    assert given_up.item == 0
    assert len(leases) == 1
    with pytest.raises(ResourceError, match="--max-failures is 2"):
        leases.fail(leases.lease("a", 0).number, "gone")


def test_an_item_is_not_given_up_while_a_second_try_is_at_work():
    leases = Leases(timeout_seconds=1000, max_attempts=1)
    for item in range(2):
        leases.add(item, 1.0)
    leases.accept(leases.lease("a", 0.0).number, 1.0)
    slow = leases.lease("a", 1.0)
    backup = leases.lease("b", 100.0)
    assert backup.item == slow.item
    assert leases.fail(slow.number, "gone") is None
    assert len(leases) == 1
    assert leases.accept(backup.number, 101.0) == backup
    assert len(leases) == 0


def test_what_failed_before_it_was_done_does_not_count_when_it_comes_again():
    """A learner's slices are one item, added again after each."""
    leases = Leases(timeout_seconds=1000, max_attempts=2)
    for _ in range(3):
        leases.add(0, 1.0)
        assert leases.fail(leases.lease("a", 0.0).number, "gone") is None
        assert leases.accept(leases.lease("b", 0.0).number, 1.0)
    assert leases.failures == 3


def test_the_clusters_end_is_an_error_that_says_what_to_do():
    leases = Leases(timeout_seconds=1e9, max_attempts=10**9)
    leases.add(0, 1e9)
    backend = SimulatedBackend(
        1,
        WorkerModel(rows_per_second=1.0, failure_seconds=5.0, return_seconds=1e7),
        lambda payload: payload,
    )
    with pytest.raises(
        ResourceError, match=r"the cluster is lost: 0 of at least 1 workers.*--resume auto"
    ):
        dispatch(WorkerPool(backend), leases, lambda lease: (1e9, None), lambda lease, result: None)
    assert backend.now() < 1e3


def test_what_would_be_refused_anywhere_is_raised_at_once():
    class Refusing(SimulatedBackend):
        def wait(self, seconds):
            return [
                (
                    Failed(
                        number=event.number,
                        worker=event.worker,
                        error=DataError("x.parquet: cut short"),
                    )
                    if isinstance(event, Finished)
                    else event
                )
                for event in super().wait(seconds)
            ]

    leases = Leases(timeout_seconds=10)
    leases.add(0, 1.0)
    with pytest.raises(DataError, match="cut short"):
        dispatch(
            WorkerPool(Refusing(2, WorkerModel(), lambda payload: (1.0, None))),
            leases,
            lambda lease: None,
            lambda lease, result: None,
        )


@pytest.mark.parametrize("failing", [1, 2])
def test_unfit_workers_are_given_nothing_and_cost_no_attempt(failing):
    """With one such worker of two the other does everything; with both the reason is raised."""
    refused = {f"worker-{number:05d}" for number in range(failing)}

    class Blind(SimulatedBackend):
        def wait(self, seconds):
            return [
                (
                    Failed(
                        number=event.number,
                        worker=event.worker,
                        error=WorkerSetupError(DataError("other data")),
                    )
                    if isinstance(event, Finished) and event.worker in refused
                    else event
                )
                for event in super().wait(seconds)
            ]

    leases, notes, done = Leases(timeout_seconds=100, max_failures=0, max_attempts=1), [], []
    for item in range(6):
        leases.add(item, 1.0)
    pool = WorkerPool(
        Blind(2, WorkerModel(rows_per_second=1.0), lambda payload: (1.0, None)), notify=notes.append
    )
    with nullcontext() if failing < 2 else pytest.raises(DataError, match="other data"):
        dispatch(pool, leases, lambda lease: None, lambda lease, result: done.append(lease.worker))
    assert done == ["worker-00001"] * (6 if failing < 2 else 0)
    assert notes == [
        f"worker worker-{number:05d} excluded: other data" for number in range(failing)
    ]


def test_min_workers_are_waited_for():
    backend = SimulatedBackend(3, WorkerModel(), lambda payload: payload)
    pool = WorkerPool(backend, min_workers=3)
    pool.wait_for(3)
    assert len(pool) == 3
    with pytest.raises(ResourceError, match="3 of at least 4"):
        pool.wait_for(4)


@given(
    lrs=st.dictionaries(
        st.integers(1, 10**6),
        st.lists(st.floats(1e-5, 1), min_size=1, max_size=5).map(tuple),
        min_size=1,
        max_size=8,
    )
)
def test_units_keep_the_order_of_the_pass_and_all_its_rates(lrs):
    items = sweep_items(lrs, trial=3)
    assert {item.batch_size: item.lrs for item in items} == lrs
    assert [item.number for item in items] == list(range(len(lrs)))


def test_cost_grows_with_rows_and_rates_and_falls_with_the_size():
    def cost(batch_size, rates, rows=10**6):
        return expected_cost(
            SweepItem(number=0, batch_size=batch_size, lrs=(0.1,) * rates, trial=0),
            rows=rows,
            num_parameters=1249,
        )

    assert cost(64, 5) > cost(1024, 5) > cost(1024, 1) > cost(1024, 1, rows=10**5) > 0


def test_a_cluster_whose_workers_all_hang_is_lost():
    leases = Leases(timeout_seconds=10, max_attempts=10**9)
    leases.add(0, 1.0)
    backend = SimulatedBackend(
        2,
        WorkerModel(rows_per_second=1.0, hang_share=1.0, hang_seconds=1e6),
        lambda payload: payload,
    )
    with pytest.raises(ResourceError, match="the cluster is lost: 0 of at least 1"):
        dispatch(WorkerPool(backend), leases, lambda lease: (1.0, None), lambda lease, result: None)
    assert backend.now() < 300
