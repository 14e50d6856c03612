"""Work that any worker may do at any time: lease items to idle workers, take results, bring back
what was lost with a worker.
"""

from collections.abc import Callable
from typing import Any

from streamtrain.cluster.crew import Crew, unfit
from streamtrain.cluster.fabric import Event, Failed, Finished, Left
from streamtrain.cluster.leases import Lease, Leases
from streamtrain.errors import ResourceError, StreamTrainError

Take = Callable[[Lease, Any], None]
GiveUp = Callable[[Lease, str], None]


def dispatch(
    crew: Crew,
    leases: Leases,
    payload: Callable[[Lease], Any],
    take: Take,
    give_up: GiveUp | None = None,
    *,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Until every item is done or given up, or `until` says so: send `payload`s, and `take` the
    first result of each lease.

    `take` may add items. What is still out after `until` counts in the next call with the same
    leases. `give_up` is told of items whose tasks failed too often; without it that is a
    ResourceError. Raises what a task raised when it would raise that anywhere: a StreamTrainError
    that is not about memory or disk.
    """
    while len(leases) and not until():
        while crew.enough and crew.idle:
            worker = next(iter(crew.idle))
            lease = leases.lease(worker, crew.fabric.now())
            if lease is None:
                break
            crew.send(lease.number, worker, payload(lease))
        for event in crew.wait([leases.next_look(crew.fabric.now())]):
            _hear(event, crew, leases, take, give_up)
        for lease in leases.overdue(crew.fabric.now()):
            _fail(crew, leases, lease.number, "no answer in time", give_up)
            crew.hang_up(lease.worker)


def _hear(event: Event, crew: Crew, leases: Leases, take: Take, give_up: GiveUp | None) -> None:
    match event:
        case Left(worker=worker):
            if (number := crew.take_away(worker)) is not None:
                _fail(crew, leases, number, "the worker is gone", give_up)
        case Finished(number=number, result=result):
            if (lease := leases.accept(number, crew.fabric.now())) is not None:
                take(lease, result)
        case Failed(number=number) if unfit(event) is not None:
            leases.give_back(number)
        case Failed(number=number, error=error):
            raise_if_anywhere(error)
            _fail(
                crew,
                leases,
                number,
                f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
                give_up,
            )


def raise_if_anywhere(error: BaseException) -> None:
    """Raise what every worker would raise: a StreamTrainError that is not about one machine's
    memory or disk.
    """
    if isinstance(error, StreamTrainError) and not isinstance(error, ResourceError):
        raise error


def _fail(crew: Crew, leases: Leases, number: int, why: str, give_up: GiveUp | None) -> None:
    worker = leases.worker(number)
    if worker is None:
        return
    crew.tell(f"{worker}: {why}; its work goes to another one")
    given_up = leases.fail(number, why)
    if given_up is None:
        return
    if give_up is None:
        raise ResourceError(
            f"a task failed on every worker that tried it, the last one {given_up.worker} ({why})."
            " See the workers' logs."
        )
    give_up(given_up, why)
