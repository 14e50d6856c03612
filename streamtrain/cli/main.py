"""`streamtrain`: runs a verb, and turns errors into one line and an exit code.

Global flags may be before or after the verb. Exit codes: the codes of `streamtrain.errors` (1 to
5), 130 after Ctrl-C, 128 + n after signal n (143 for SIGTERM), 141 when the reader of stdout has
closed it.
"""

import errno
import io
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Collection, Sequence
from typing import NoReturn

from cyclopts import App, CycloptsError, Group

from streamtrain import __version__
from streamtrain.base.interrupt import Terminated, signals_terminate
from streamtrain.base.redact import Secrets
from streamtrain.base.utf8_names import refuse_other_encodings
from streamtrain.cli.command_clock import counting_from
from streamtrain.cli.terminal import hiding, note, outlive_terminal
from streamtrain.errors import StreamTrainError, first_line
from streamtrain.training.memory_errors import is_out_of_memory

#: Verb → group, import string, help. With an import string, a verb does not import the libraries of
#: other verbs.
VERBS = {
    "init": (
        "Start",
        "streamtrain.cli.init_command:init",
        "Write a commented config from the data's own columns.",
    ),
    "generate": (
        "Start",
        "streamtrain.cli.generate_command:generate",
        "Make shards with a known noise floor.",
    ),
    "ingest": (
        "Start",
        "streamtrain.cli.ingest_command:ingest",
        "Convert CSV, Parquet, Arrow or Zarr to verified shards.",
    ),
    "inspect": (
        "Start",
        "streamtrain.cli.inspect_command:inspect",
        "Show the columns of a data set, their use, and its layout.",
    ),
    "doctor": (
        "Start",
        "streamtrain.cli.doctor_command:doctor",
        "Describe this machine, and check that everything works on it.",
    ),
    "sweep": (
        "Run",
        "streamtrain.cli.sweep_command:sweep",
        "Compare minibatch sizes on the same rows and recommend one.",
    ),
    "train": ("Run", "streamtrain.cli.train_command:train", "Train one model and save it."),
    "predict": (
        "Results",
        "streamtrain.cli.predict_command:predict",
        "Write a trained model's predictions for a data set.",
    ),
    "evaluate": (
        "Results",
        "streamtrain.cli.predict_command:evaluate",
        "Show the errors of a trained model on a data set.",
    ),
    "export": (
        "Results",
        "streamtrain.cli.export_command:export",
        "Write a trained model as ONNX, with normalisation folded in.",
    ),
    "report": (
        "Results",
        "streamtrain.cli.report_command:report",
        "Make the report of a run again from its records.",
    ),
    "compare": (
        "Results",
        "streamtrain.cli.compare_command:compare",
        "Show what changed between two runs, with intervals; --fail-on for CI.",
    ),
    "verify": (
        "Results",
        "streamtrain.cli.verify_command:verify",
        "Check every page, chunk and hash, and list every bad shard.",
    ),
    "completion": (
        "Config",
        "streamtrain.cli.completion_command:completion",
        "Print a completion script for bash, zsh or fish.",
    ),
}
CONFIG_VERBS = {
    "show": ("streamtrain.cli.config_command:show", "Print every value with its origin."),
    "schema": (
        "streamtrain.cli.config_command:schema",
        "Print the JSON schema of the config, for editors.",
    ),
    "validate": ("streamtrain.cli.config_command:validate", "Check a config file."),
}
BENCH_VERBS = {
    "stream": (
        "streamtrain.cli.bench_command:stream",
        "Compare shuffled delivery with raw decode, an expert's loop and a gather in memory.",
    ),
    "ingest": (
        "streamtrain.cli.bench_ingest_command:ingest",
        "Compare the shuffle of ingest with a plain copy.",
    ),
    "step": (
        "streamtrain.cli.bench_step_command:step",
        "Compare training steps with a plain PyTorch loop and single-thread sgemm.",
    ),
    "train": (
        "streamtrain.cli.bench_step_command:train",
        "Compare a learner fed from shards with the same one fed from memory.",
    ),
    "cluster": (
        "streamtrain.cli.bench_cluster_command:cluster",
        "Measure a cluster's driver against simulated workers.",
    ),
}
#: Global flags that take a value: the word after one of them is not the verb.
VALUE_FLAGS = frozenset(
    {"-c", "--config", "--set", "-o", "--out", "--seed", "--memory", "--device", "--progress"}
)

#: Flags with the values on and off, which may be given without a value.
SWITCHES = frozenset(
    {
        "--average",
        "--confirm",
        "--extend-grid",
        "--grow",
        "--halving",
        "--header",
        "--rerun",
        "--standardize",
    }
)

#: Name prefixes of threads that read. After a run none of them exists, unless a read hangs.
_READERS = ("streamtrain-window", "streamtrain-lane", "streamtrain-read")

_GROUPS = ("Start", "Run", "Results", "Config")


def build_app() -> App:
    """Return the command with all verbs, without importing their modules."""
    app = App(
        name="streamtrain",
        version=__version__,
        help_flags=["--help", "-h"],
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
        help=(
            "Train regressors on data that does not fit in memory, and find the best minibatch size"
            " for it."
        ),
        help_epilogue=(
            "Global flags may precede or follow the verb. `streamtrain VERB --help` lists its"
            " flags."
        ),
    )
    groups = {name: Group(name, sort_key=position) for position, name in enumerate(_GROUPS, 1)}
    app["--help"].group = app["--version"].group = Group("Options", sort_key=9)
    for position, (verb, (group, target, text)) in enumerate(VERBS.items()):
        app.command(target, name=verb, help=text, group=groups[group], sort_key=position)
    for name, group, text, verbs in (
        ("bench", "Run", "Measure this machine and this program.", BENCH_VERBS),
        ("config", "Config", "Show, describe or check a config.", CONFIG_VERBS),
    ):
        parent = App(
            name=name, help=text, help_format="plaintext", group=groups[group], sort_key=len(VERBS)
        )
        for verb, (target, help_text) in verbs.items():
            parent.command(target, name=verb, help=help_text)
        app.command(parent)
    return app


def verb_first(tokens: Sequence[str]) -> list[str]:
    """Move flags that are before the verb behind it.

    >>> verb_first(["-c", "a.yaml", "--json", "sweep", "data/"])
    ['sweep', '-c', 'a.yaml', '--json', 'data/']
    """
    start = 0
    while start < len(tokens) and tokens[start].startswith("-"):
        start += 2 if tokens[start] in VALUE_FLAGS else 1
    stop = start + (2 if tokens[start : start + 1] in (["bench"], ["config"]) else 1)
    return [*tokens[start:stop], *tokens[:start], *tokens[stop:]]


def switches(tokens: Sequence[str], names: Collection[str]) -> list[str]:
    """Rewrite switches for Cyclopts: alone they are `on`, and with the prefix `--no-` `off`.

    >>> words = ["sweep", "--no-confirm", "--halving", "--out", "a", "--confirm", "off"]
    >>> switches(words, {"--confirm", "--halving"})
    ['sweep', '--confirm=off', '--halving=on', '--out', 'a', '--confirm=off']
    """
    rewritten, remaining = [], deque(tokens)
    while remaining:
        token = remaining.popleft()
        if token.startswith("--no-") and f"--{token[5:]}" in names:
            token = f"--{token[5:]}=off"
        elif token in names:
            has_value = remaining and remaining[0] in ("on", "off")
            token += f"={remaining.popleft() if has_value else 'on'}"
        rewritten.append(token)
    return rewritten


def run(tokens: Sequence[str], began: float | None = None) -> int:
    """Run the command with these words and return the exit code.

    `began`: when the command began, by `time.perf_counter`; None: now. An error is one line on
    stderr, with the traceback if --debug is given.
    """
    # If stdout or stderr is closed, write to nothing for the life of the process. The first file
    # that is opened would otherwise get its descriptor.
    sys.stdout, sys.stderr = (
        stream or open(os.devnull, "w")  # noqa: SIM115 - stays open for the life of the process
        for stream in (sys.stdout, sys.stderr)
    )
    sys.stdout, sys.stderr = map(outlive_terminal, (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show `≤` gets \u2264 instead of an exception.
            stream.reconfigure(errors="backslashreplace")
    with hiding(Secrets.of_command(tokens, os.environ)), counting_from(began):
        return _run(tokens)


def _run(tokens: Sequence[str]) -> int:
    try:
        with signals_terminate():
            for word in tokens:
                refuse_other_encodings(word)
            code = build_app()(
                switches(verb_first(tokens), SWITCHES),
                exit_on_error=False,
                print_error=False,
                result_action="return_value",
            )
            return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # Otherwise Python would report an error when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except SystemExit as leave:
        # rich, which writes --help, turns a broken pipe into a SystemExit.
        if isinstance(leave.__context__, BrokenPipeError):
            return 128 + signal.SIGPIPE
        raise
    except (Exception, KeyboardInterrupt, Terminated) as failure:
        if "--debug" in tokens:
            traceback.print_exc()
        code, message = explain(failure)
        note(message)
        return code


def explain(failure: BaseException) -> tuple[int, str]:
    """Return the exit code of a failure and its message, with one line per thing refused."""
    if isinstance(failure, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(failure, Terminated):
        name = signal.Signals(failure.number).name
        return 128 + failure.number, "terminated" if name == "SIGTERM" else f"ended by {name}"
    if isinstance(failure, StreamTrainError):
        return failure.exit_code, "\n".join(
            f"error: {line}" for line in str(failure).splitlines() or [type(failure).__name__]
        )
    if isinstance(failure, CycloptsError):
        return 2, f"error: {' '.join(str(failure).split())} See --help."
    if isinstance(failure, MemoryError):
        return 4, "error: out of memory. Lower --memory, or close other programs."
    if isinstance(failure, OSError):
        if failure.errno in (errno.ENOSPC, errno.EDQUOT):
            return 4, f"error: {failure}. Free space there, or choose another --out."
        return 4 if failure.errno == errno.EMFILE else 1, f"error: {failure}"
    if isinstance(failure, RuntimeError) and is_out_of_memory(failure):
        if "CPUAllocator" in str(failure):  # torch's, which raises no MemoryError
            return explain(MemoryError())
        return 4, (
            f"error: the GPU is out of memory: {first_line(failure).rstrip('.')}. Close other"
            " programs that use it, or use --device cpu."
        )
    # Python 3.11 wraps an exception that is raised while a class is created.
    if isinstance(failure.__cause__, KeyboardInterrupt | Terminated):
        return explain(failure.__cause__)
    # pydantic writes one that is raised while it builds a class into its message, and drops it
    if type(failure).__name__ == "SchemaError" and "\n  KeyboardInterrupt: " in str(failure):
        return explain(KeyboardInterrupt())
    message = (
        f"error: unexpected {type(failure).__name__}: {first_line(failure)}. Run again with --debug"
        " and report what it prints."
    )
    return 1, message


def main(began: float | None = None) -> NoReturn:
    """Run the console script, and exit. `began`: as for `run`."""
    code = run(sys.argv[1:], began)
    if any(thread.name.startswith(_READERS) for thread in threading.enumerate()):
        # A read hangs and was abandoned (stream/read_timeout.py). In a normal exit pyarrow would
        # wait for its store, or abort the process.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)
