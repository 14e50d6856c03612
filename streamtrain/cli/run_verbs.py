"""What `sweep` and `train` share: config, dry run, progress and the result."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from streamtrain.base.imports import importing_without_gc
from streamtrain.base.redact import Secrets
from streamtrain.base.words import plural
from streamtrain.cli.command_clock import command_began
from streamtrain.cli.flag_groups import Output, Sources, load_config
from streamtrain.cli.from_sweep import (
    FinishedSweep,
    changed_data_text,
    read_sweep,
    taken_text,
)
from streamtrain.cli.progress import progress
from streamtrain.cli.terminal import fit, note, plain_warnings, show, writing
from streamtrain.config import RESOLVED, Config
from streamtrain.errors import ConfigError, DataError, StreamTrainError
from streamtrain.records import Emit, Record, RunStarted
from streamtrain.report.render import Drawing
from streamtrain.types import Json

#: Warnings shown on the terminal, the most serious first; the report has all of them.
WARNINGS_SHOWN = 3

#: Status of a cell without a model → how the error message ends.
_FAILED = {
    "diverged": "diverged. Try a smaller --lr.",
    "out_of_memory": "ran out of memory.",
    "failed": "failed; the report says why.",
}


def run(
    verb: Literal["sweep", "train"],
    data: str | None,
    flags: Any,
    sources: Sources,
    output: Output,
    *,
    out: str | None,
    resume: str,
    dry_run: bool,
    report: bool,
    tensorboard: bool = False,
    from_run: str | None = None,
) -> None:
    """Run `sweep` or `train` with the config of all layers; raises errors of `streamtrain.errors`.

    `--resume DIR` alone is enough: the config is then the one that the run keeps in DIR.
    """
    kept_config = Path(resume) / RESOLVED
    resumes_one = resume not in ("auto", "never")
    if resumes_one and sources.config is None and kept_config.is_file():
        sources = replace(sources, config=str(kept_config))
    swept = None if from_run is None else read_sweep(from_run)
    config, origins = load_config(data, flags, sources, sweep=swept)
    if config.data.path is None and resumes_one:
        raise ConfigError(
            f"--resume {resume}: {kept_config} is missing or has no data. Name a run's folder, auto"
            " or never."
        )
    if config.data.path is None:
        raise ConfigError(
            f"{verb} needs DATA: a file, a folder or a glob of Parquet or Zarr shards, or data.path"
            " in the config"
        )
    if swept is not None and not output.quiet:
        note(taken_text(swept, config, origins))
    with ExitStack() as stack:
        drawing = stack.enter_context(Drawing()) if report and not dry_run else None
        stack.enter_context(plain_warnings(quiet=output.quiet))
        with importing_without_gc("streamtrain.api"):
            from streamtrain import api
        if dry_run:
            plan = api.plan_run(config, verb, began=command_began())
            show(api.plan_text(plan), plan, as_json=output.json)
            return
        run_verb = api.run_train
        if verb == "sweep":
            run_verb = partial(api.run_sweep, began=command_began())
        with (
            api.open_run(verb, config, out, resume) as directory,
            _observer(
                directory.out, output, tensorboard=tensorboard, swept=swept
            ) as directory.on_record,
            _resume_hint(directory.out, report=report),
        ):
            result = run_verb(
                directory,
                config,
                report=report,
                drawing=drawing,
                command=_command(config),
                on_note=(lambda text: None) if output.quiet else note,
            )
    if result.already_complete:
        note(f"{result.out} is already complete: nothing to do")
    summary = {**result.summary, "warnings": []} if output.quiet else result.summary
    with (
        api.naming_damage(result.out / "summary.json") if result.already_complete else nullcontext()
    ):
        text = result_text(summary, result.out)
    show(text, result.summary, as_json=output.json)
    statuses = {cell["status"] for cell in result.summary["cells"]}
    if statuses <= _FAILED.keys():
        subject = "the training" if verb == "train" else "every size"
        outcome = _FAILED[statuses.pop() if len(statuses) == 1 else "failed"]
        raise StreamTrainError(f"{result.out}: {subject} {outcome}")


def _command(config: Config) -> str:
    """Return the command line, to be kept with the run, without secrets.

    The config has the secrets that count, the words also those that another one overrides.
    """
    words = sys.argv[1:]
    secrets = config.data.secrets | Secrets.of_command(words, {})
    return shlex.join(["streamtrain", *secrets.hide_words(words)])


@contextmanager
def _observer(
    folder: Path, output: Output, *, tensorboard: bool, swept: FinishedSweep | None
) -> Iterator[Emit]:
    """Yield a function that shows each record as progress and, if asked for, in TensorBoard.

    It also warns where the data are not those of the sweep `swept`.
    """
    mode = "none" if output.quiet else output.progress
    with ExitStack() as stack:
        observers = [stack.enter_context(progress(mode, verbose=output.verbose))]
        if tensorboard:
            from streamtrain.run.tensorboard import tensorboard as event_files

            write_event = stack.enter_context(event_files(folder / "tensorboard"))

            def write_scalars(record: Record) -> None:
                with writing(folder / "tensorboard"):
                    write_event(record)

            observers.append(write_scalars)

        def on_record(record: Record) -> None:
            if isinstance(record, RunStarted) and swept is not None and not output.quiet:
                text = changed_data_text(swept, record.data)
                if text:
                    note(text)
            for observer in observers:
                observer(record)

        yield on_record


@contextmanager
def _resume_hint(folder: Path, *, report: bool) -> Iterator[None]:
    """If the run ends early and has a checkpoint, print how to resume it.

    After Ctrl-C, also write a report of the run so far, with pictures if `report`.
    """
    from streamtrain import api

    try:
        yield
    except (ConfigError, DataError):  # the run would end in the same way again
        raise
    except BaseException as failure:
        if api.list_checkpoints(folder / api.CHECKPOINTS):
            note(f"{folder} was saved; resume with --resume {shlex.quote(str(folder))}")
            if isinstance(failure, KeyboardInterrupt):
                _report_so_far(folder, report=report)
        raise


def _report_so_far(folder: Path, *, report: bool) -> None:
    """Write a report of an interrupted run.

    A second Ctrl-C skips it. The run itself is already saved, so errors here do no harm.
    """
    from streamtrain.report.run_files import read_records
    from streamtrain.report.write import write_report

    with suppress(StreamTrainError, OSError):
        note("writing the report so far; Ctrl-C skips it")
        write_report(read_records(folder / "events.jsonl"), folder, pictures=report)
        note(f"report so far: {_page(folder)}")


def result_text(summary: Json, out: Path) -> str:
    """Return the table and its sentence, the warnings with their flags, and the report's path.

    For a trained model, also how to use it.
    """
    from streamtrain.report.markdown import render_table

    table, _, answer = render_table(summary).rpartition("\n\n")
    warnings = []
    for warning in summary["warnings"][:WARNINGS_SHOWN]:
        flag = f" [{warning['flag']}]" if warning["flag"] else ""
        warnings.append(fit(f"warning: {warning['text']}{flag}"))
    if (more := len(summary["warnings"]) - WARNINGS_SHOWN) > 0:
        warnings.append(f"{plural(more, 'more warning')} in the report")
    end = f"report: {_page(out)}"
    failed = {cell["status"] for cell in summary["cells"]} <= _FAILED.keys()
    if summary["verb"] == "train" and not failed and (out / "model.json").exists():
        end += f"\nTo use it: streamtrain predict {shlex.quote(str(out))} DATA"
    parts = (table, fit(answer), "\n".join(warnings), end)
    return "\n\n".join(part for part in parts if part)


def _page(out: Path) -> Path:
    """Return the HTML report, or the Markdown one where there are no charts."""
    page = out / "report.html"
    return page if page.exists() else out / "report.md"
