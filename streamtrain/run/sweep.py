"""The sweep: trials x batch sizes x learning rates.

One pass over the data feeds every learner of a trial, so all of them see the same rows. The records
decide which pass comes next (`science/tuning.py`): tuning, an extension of the grid, or a rerun on
a fresh seed. After the passes, steps and delivery are timed separately, the trained models are
measured, and the recommended size is trained once more to measure the time it takes.
"""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

from streamtrain.base.caller import warn_caller
from streamtrain.config import Config
from streamtrain.errors import ConfigError
from streamtrain.records import (
    Baseline,
    DeliveryTimed,
    Emit,
    PassEnded,
    PassPlanned,
    QuarantineChanged,
    Record,
    RunStarted,
    StepsTimed,
    WinningRates,
    started_record,
)
from streamtrain.run.at_once import share_gpu
from streamtrain.run.confirm import confirm
from streamtrain.run.faster_device import with_faster_device
from streamtrain.run.grow import grow
from streamtrain.run.measure import measure_sweep
from streamtrain.run.passes import PassRunner, run_pass
from streamtrain.run.passes_ahead import PassAhead, PassesAhead, make_learners, with_shared_seconds
from streamtrain.run.prepare import Prepared
from streamtrain.run.reserve import with_reserve
from streamtrain.run.run_records import RunLifetime
from streamtrain.run.sweep_plan import plan_sweep, sweep_rules
from streamtrain.run.timing import REPEATS, measure_throughput
from streamtrain.run.warm_up import take_few_steps
from streamtrain.science.ladder import (
    choose_contest,
    last_selection,
    next_rung,
    next_trial,
    trials_after,
)
from streamtrain.science.run_log import Run
from streamtrain.science.spending import (
    is_timed,
    ladder_of_run,
    projected_seconds,
    timing_would_tell,
)
from streamtrain.science.tuning import (
    PassPlan,
    choose_winners,
    is_tuned,
    last_pass,
    next_fresh_pass,
    next_tuning_pass,
    passes_after,
)
from streamtrain.training.checkpointing import Checkpointer
from streamtrain.training.learner import Learner
from streamtrain.types import Json

#: The records that a pass ends with, or that are emitted between two passes.
_BETWEEN_PASSES = (
    Baseline,
    PassEnded,
    QuarantineChanged,
    WinningRates,
    StepsTimed,
    DeliveryTimed,
)

#: Seconds for a growing size in a sweep whose budget is in rows.
GROWTH_SECONDS = 10.0

#: The part of a budget after which no further trial is confirmed.
CONFIRM_SHARE = 0.05

#: Timing repeats before the ladder, which needs to know roughly what a row costs at each size.
FIRST_REPEATS = 2

#: Blocks of repeats after it, at most: a busy machine needs more than a quiet one.
MOST_BLOCKS = 4


def sweep(
    config: Config,
    emit: Emit,
    run_metadata: Json,
    checkpointer: Checkpointer | None = None,
    runner: PassRunner = run_pass,
    *,
    began: float | None = None,
) -> None:
    """Run a sweep and emit its records.

    `run_metadata`: fields of the `run` record that only the caller knows. With a `checkpointer` the
    sweep can be interrupted and resumed: the records of the interrupted sweep decide the next pass.
    `runner` runs the passes. `began`: when the seconds of the budget began, by `time.perf_counter`;
    None: with this call. Raises ConfigError for a `train.batch_schedule`.
    """
    before = 0.0 if began is None else time.perf_counter() - began
    lifetime = RunLifetime("sweep", emit, run_metadata, checkpointer)
    if config.train.batch_schedule is not None:
        raise ConfigError("train.batch_schedule is for `train`: a sweep compares constant sizes.")
    plan = plan_sweep(config, lifetime.window_rows)
    prepared, ladder, sizes, rates = plan.prepared, plan.ladder, plan.sizes, plan.rates
    if ladder is None:
        passes, seconds = float(plan.trials), math.inf
    else:
        passes, seconds = math.inf, ladder.budget_seconds or math.inf
    if runner is run_pass:  # workers have other devices than the driver
        prepared = with_faster_device(
            prepared, sizes, len(rates), checkpointer, passes=passes, seconds=seconds
        )
    ladder = with_reserve(prepared, ladder, sizes, lifetime.seconds, before)
    records = lifetime.open(prepared, sizes, rates)
    if records:
        header = started_record(records[0])
    else:
        header = lifetime.first_record(sizes=sizes, rates=rates, trials=plan.trials)
        header = replace(header, **sweep_rules(config), ladder=ladder)
        if ladder is not None:
            header = replace(header, train_rows=None)

    sweep_run = SweepRun(prepared, header, emit, checkpointer, runner)
    if records:
        sweep_run.resume_from(records)
    else:
        emit(header)
        sweep_run.emit(prepared.baselines)
    learners = sweep_run.run_passes()
    peak_bytes = lifetime.peak_bytes()

    run = sweep_run.run
    if ladder is None:
        sweep_run.time_steps(max(REPEATS, run.trials))
    started = time.perf_counter()
    if config.sweep.measure:
        measure_sweep(prepared, run, learners, sweep_run.emit)
    if config.sweep.confirm:
        budget = None if ladder is None else ladder.budget_seconds
        confirm(prepared, run, sweep_run.emit, CONFIRM_SHARE * (budget or math.inf))
    if config.sweep.grow and ladder is not None and run.goal == "time-to-loss":
        left = projected_seconds(run)
        if left is not None:
            # The measurements are in the reserve too, and count twice.
            left -= time.perf_counter() - started + ladder_of_run(run).reserved_seconds
        grow(prepared, run, sweep_run.emit, GROWTH_SECONDS if left is None else left)

    rows_read = sum(record.rows_read for record in run.passes)
    rows_if_separate = sum(record.rows_read * record.replicas for record in run.passes)
    lifetime.end(
        rows_read=rows_read,
        passes=len(run.passes),
        saved=rows_if_separate - rows_read,
        peak_bytes=peak_bytes,
        projected_bytes=sweep_run.projected_bytes,
    )


class SweepRun:
    """The passes of one sweep, each of which follows from the records before it.

    `run` has all records so far, and `projected_bytes` the memory of the most passes that ran at
    once; None if they took turns. Use `resume_from` first when the sweep was interrupted, then
    `run_passes`. Used from one thread.
    """

    def __init__(
        self,
        prepared: Prepared,
        header: RunStarted,
        emit: Emit,
        checkpointer: Checkpointer | None,
        runner: PassRunner,
    ) -> None:
        self.run = Run(header=header)
        self._prepared = prepared
        self._emit = emit
        self._checkpointer = checkpointer
        self._runner = runner
        # Whether the sweep has a budget, so that a ladder of growing rows decides its passes.
        self._climbs = header.ladder is not None
        self._ahead = PassesAhead()
        self._at_once = 1
        self._has_warned = False
        self.projected_bytes: int | None = None
        # Records of the pass in which the sweep was interrupted.
        self._interrupted: list[Record] = []

    def emit(self, record: Record) -> None:
        """Add a record to the run, and pass it on."""
        self.run.add(record)
        self._emit(record)

    def resume_from(self, records: Sequence[Record]) -> None:
        """Load the records of an interrupted sweep; the first is the `run` record.

        Which pass was interrupted follows from the completed passes alone, so the records of the
        interrupted pass are not added to the run until that pass continues.
        """
        boundaries = [i for i, record in enumerate(records) if isinstance(record, _BETWEEN_PASSES)]
        stop = 1 + max(boundaries, default=0)
        for record in records[1:stop]:
            self.run.add(record)
        self._interrupted = list(records[stop:])

    def run_passes(self) -> list[Learner]:
        """Run the remaining passes, and return the learners of the last one.

        If no pass remains, its learners are loaded from the checkpoint of the last pass.
        """
        with self._ahead:
            learners = self._run_remaining_passes()
        return learners or self._run_pass(last_pass(self.run), announce=False)

    def _run_remaining_passes(self) -> list[Learner]:
        """Run the remaining passes, and return the learners of the last one; none if none does."""
        learners: list[Learner] = []
        if self._climbs:
            next_tuning, choose, next_fresh = next_rung, choose_contest, next_trial
        else:
            next_tuning, choose, next_fresh = next_tuning_pass, choose_winners, next_fresh_pass
        while plan := next_tuning(self.run):
            if self._climbs and not self._interrupted:
                self._time_first_steps(plan)
            learners = self._run_pass(plan)
        if "tuned" in self.run.rules and not self.run.winners:
            if self._climbs:
                self._time_until_sure()
            self.emit(choose(self.run))
        while True:
            while plan := next_fresh(self.run):
                learners = self._run_pass(plan)
            # a pass ahead that the records do not ask for would disturb the timing
            self._ahead.stop()
            if not self._climbs or not timing_would_tell(self.run, last_selection(self.run)):
                return learners
            self._time_once_more()

    def time_steps(self, repeats: int, first_repeat: int = 0) -> None:
        """Time the stream and the steps of every size that can take one."""
        sizes = tuple(size for size in self.run.batch_sizes if _can_step(self.run, size))
        measure_throughput(
            self._prepared,
            sizes,
            self.emit,
            repeats,
            first_repeat=first_repeat,
            pass_seconds=sum(record.seconds for record in self.run.passes),
        )

    def _time_until_sure(self) -> None:
        """Time the steps, and again where the repeats differ too much to compare sizes by them."""
        for block in range(MOST_BLOCKS):
            self.time_steps(REPEATS, block * REPEATS)
            if is_timed(self.run):
                return

    def _time_once_more(self) -> None:
        """Add a block of repeats to those that there are."""
        first_repeat = 1 + max(max(repeats) for repeats in self.run.step_seconds.values())
        self.time_steps(REPEATS, first_repeat)

    def _time_first_steps(self, plan: PassPlan) -> None:
        """Time the steps of new sizes roughly, before the first rung that has them."""
        new = tuple(size for size in plan.lrs if size not in self.run.step_seconds)
        if not new:
            return
        if self.run.passes:
            take_few_steps(self._prepared, new, plan.lrs[new[0]])
        measure_throughput(self._prepared, new, self.emit, FIRST_REPEATS, pass_seconds=0.0)

    def _run_pass(self, plan: PassPlan, *, announce: bool = True) -> list[Learner]:
        """Run one pass and return its learners.

        An interrupted pass was already announced when it first started.
        """
        if self._interrupted:
            announce = False
            for record in self._interrupted:
                self.run.add(record)
            self._interrupted = []
        passes_left = 1 if self._climbs else self._passes_left(plan)
        max_seconds = self._max_seconds(passes_left)
        if announce:
            self.emit(
                PassPlanned(
                    kind=plan.kind,
                    trial=plan.trial,
                    batch_sizes=len(plan.lrs),
                    replicas=sum(map(len, plan.lrs.values())),
                    passes_left=passes_left,
                    rows=plan.rows,
                    seconds_left=projected_seconds(self.run) if self._climbs else None,
                )
            )
        if ahead := self._ahead.take(plan):
            self._add_pass(ahead)
            return ahead.learners
        prepared = self._prepared if plan.rows is None else self._prepared.with_rows(plan.rows)
        learners = make_learners(prepared, plan)
        prepared = self._start_following(prepared, plan)
        self._runner(
            prepared,
            learners,
            plan.trial,
            self._emit_of_pass,
            kind=plan.kind,
            max_seconds=max_seconds,
            saving=self._checkpointer,
        )
        return learners

    def _start_following(self, prepared: Prepared, plan: PassPlan) -> Prepared:
        """Start the passes that can run beside the one of `plan`; return the state for it."""
        self._at_once = 1
        if self._runner is not run_pass or self._ahead.failed:
            return prepared
        find = trials_after if self._climbs else passes_after
        following = find(self.run, plan)
        shared = share_gpu(prepared, plan, 1 + len(following))
        if shared is None:
            return prepared
        if shared.reason and not self._has_warned:
            warn_caller(shared.reason)
            self._has_warned = True
        sharing = replace(prepared, budget=shared.budget)
        self._at_once += self._ahead.start(sharing, following[: shared.passes - 1])
        if self._at_once == 1:
            return prepared
        self.projected_bytes = max(self.projected_bytes or 0, shared.budget.projected_bytes)
        return sharing

    def _emit_of_pass(self, record: Record) -> None:
        self.emit(with_shared_seconds(record, self._at_once))

    def _add_pass(self, ahead: PassAhead) -> None:
        """Add the records of a pass that ran before its turn, and save its end."""
        saving = self._checkpointer
        with nullcontext() if saving is None else saving.listening():
            for record in ahead.records:
                self._emit_of_pass(record)
            if saving is not None:
                assert ahead.state is not None
                saving.save(ahead.state)

    def _passes_left(self, plan: PassPlan) -> int:
        """The number of passes still expected, including this one but no further extensions."""
        run = self.run
        fresh = run.trials if run.header.rerun and is_tuned(run) else 0
        done = sum(record.kind != "extension" for record in run.passes)
        expected = max(1, run.trials + fresh - done)
        return expected + 1 if plan.kind == "extension" else expected

    def _max_seconds(self, passes_left: int) -> float | None:
        """The time limit of one pass: an equal share of the remaining `--max-time`."""
        max_time = self._prepared.config.train.max_time
        if max_time is None:
            return None
        seconds_used = sum(record.seconds for record in self.run.passes)
        return max(0.0, max_time - seconds_used) / passes_left


def _can_step(run: Run, batch_size: int) -> bool:
    """Whether at least one learner of this size neither failed nor ran out of memory.

    If every learner did, timing the steps of this size would fail too, and end the sweep.
    """
    curves = [
        curve
        for (size, _), trials in run.curves.items()
        if size == batch_size
        for curve in trials.values()
    ]
    return any(curve.outcome not in ("out_of_memory", "failed") for curve in curves)
