"""Where `train` runs on a cluster: one pass of one learner, in rounds or by all-reduce."""

import uuid
from collections.abc import Callable

from streamtrain.cluster.averaging import RoundsPass
from streamtrain.cluster.blueprint import draw
from streamtrain.cluster.choose import choose_sync
from streamtrain.cluster.connect import Connection
from streamtrain.cluster.crew import LOOK_SECONDS, Crew
from streamtrain.cluster.dask_fabric import DaskFabric
from streamtrain.cluster.driven import DrivenPass, pass_name
from streamtrain.cluster.gang import Gang
from streamtrain.cluster.leases import Leases
from streamtrain.cluster.synchronous import COLLECTIVE_SECONDS, LanesPass, Meeting
from streamtrain.cluster.worker import call
from streamtrain.config import ClusterConfig
from streamtrain.learners.learner import Learner
from streamtrain.learners.saving import PassState, Saving
from streamtrain.prepared import Prepared
from streamtrain.types import Emit, Record


class TrainPlace:
    """Call it like `passes.run_pass`, with one learner. `tell` hears what happens, for people."""

    def __init__(self, connection: Connection, config: ClusterConfig, tell: Callable[[str], None]):
        self._connection, self._config, self._tell = connection, config, tell

    def __call__(
        self,
        prepared: Prepared,
        learners: list[Learner],
        trial: int,
        emit: Emit,
        *,
        kind: str = "tuning",
        max_seconds: float | None = None,
        saving: Saving | None = None,
    ) -> Record:
        """See `run_pass`.

        Raises ConfigError for what workers cannot do, ResourceError when the cluster is lost: the
        last commit is saved.
        """
        (learner,), config, run = learners, self._config, uuid.uuid4().hex[:12]
        blueprint = draw(prepared)
        begun = saving.take(pass_name(learner, kind)) if saving is not None else None
        with DaskFabric(
            self._connection.client,
            run,
            blueprint,
            call,
            restarts=self._connection.own,
            tell=self._tell,
        ) as fabric:
            crew = Crew(
                fabric, min_workers=config.min_workers, tell=self._tell, look_seconds=LOOK_SECONDS
            )
            leases = Leases(
                timeout_seconds=config.timeout_seconds, max_failures=config.max_failures
            )
            notice_seconds = min(COLLECTIVE_SECONDS, config.timeout_seconds)
            meeting = Meeting(
                Gang(crew, leases, notice_seconds=notice_seconds),
                run,
                timeout_seconds=notice_seconds,
            )
            if begun is None:
                crew.wait_for(crew.min_workers)
                chosen = choose_sync(prepared, learner, config, crew, meeting)
                emit({"event": "sync", **chosen})
            else:
                chosen = begun[0]["chosen"]
            self._tell(
                f"{'all-reduce' if chosen['sync'] == 'allreduce' else 'rounds of local SGD'}:"
                f" {chosen['reason']}"
            )
            work = self._pass(
                prepared, learner, emit, meeting, chosen, kind=kind, saving=saving, begun=begun
            )
            return work.record if work.record is not None else work.run(crew, leases)

    def _pass(
        self,
        prepared: Prepared,
        learner: Learner,
        emit: Emit,
        meeting: Meeting,
        chosen: Record,
        *,
        kind: str,
        saving: Saving | None,
        begun: PassState | None,
    ) -> DrivenPass:
        if chosen["sync"] == "allreduce":
            return LanesPass(
                prepared,
                learner,
                emit,
                meeting,
                lanes=chosen["lanes"],
                kind=kind,
                saving=saving,
                chosen=chosen,
                begun=begun,
            )
        if begun is None or begun[0]["record"] is None:
            meeting.gang.gather(chosen["shares"])  # opening the run is no part of a round
        meeting.gang.disband()
        rows = self._config.round_rows
        windows = None if rows is None else max(1, round(rows / prepared.window_rows))
        return RoundsPass(
            prepared,
            learner,
            emit,
            shares=chosen["shares"],
            windows_a_share=windows,
            kind=kind,
            saving=saving,
            chosen=chosen,
            begun=begun,
        )
