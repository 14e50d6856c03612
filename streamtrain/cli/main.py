"""`streamtrain`: the verbs by name, global flags before or after the verb, errors as one line, exit
codes.

Exit codes: those of `streamtrain.errors` (1 to 5), 130 after Ctrl-C, 143 after SIGTERM, 141 when
the reader of stdout left.
"""

import errno
import io
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from cyclopts import App, CycloptsError, Group

from streamtrain import __version__
from streamtrain.cli.terminal import note
from streamtrain.errors import StreamTrainError

#: Verb → group, import string, help. An import string keeps a verb's libraries out of every other
#: verb.
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
        "Turn CSV, Parquet, Arrow or Zarr into verified shards.",
    ),
    "inspect": (
        "Start",
        "streamtrain.cli.inspect_command:inspect",
        "Say what a data set holds, from its footers only.",
    ),
    "doctor": (
        "Start",
        "streamtrain.cli.doctor_command:doctor",
        "Describe this machine and see that everything works on it.",
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
        "Say how well a trained model does on a data set.",
    ),
    "export": (
        "Results",
        "streamtrain.cli.export_command:export",
        "Write a trained model as ONNX, normalisation folded in.",
    ),
    "report": (
        "Results",
        "streamtrain.cli.report_command:report",
        "Make the report of a run again, from its records.",
    ),
    "compare": (
        "Results",
        "streamtrain.cli.compare_command:compare",
        "Say what changed from one run to another, with intervals; --fail-on for CI.",
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
    "show": ("streamtrain.cli.config_command:show", "Print every value and where it comes from."),
    "schema": (
        "streamtrain.cli.config_command:schema",
        "Print the JSON schema of the config, for editors.",
    ),
    "validate": ("streamtrain.cli.config_command:validate", "Check a config file."),
}
BENCH_VERBS = {
    "stream": (
        "streamtrain.cli.bench_command:stream",
        "Measure shuffled delivery beside raw decode, an expert's loop and a gather in memory.",
    ),
    "step": (
        "streamtrain.cli.bench_step_command:step",
        "Measure training steps beside a plain PyTorch loop and single-thread sgemm.",
    ),
    "train": (
        "streamtrain.cli.bench_step_command:train",
        "Measure a learner fed from shards beside the same one fed from memory.",
    ),
    "cluster": (
        "streamtrain.cli.bench_cluster_command:cluster",
        "Run a cluster's driver against simulated workers: what planning and failures cost.",
    ),
}
#: Global flags that take a value: with one of them before the verb, the next word is not the verb.
VALUE_FLAGS = frozenset(
    {"-c", "--config", "--set", "-o", "--out", "--seed", "--memory", "--device", "--progress"}
)

#: Flags that are on or off: they may stand without a value.
SWITCHES = frozenset({"--confirm", "--extend-grid", "--halving", "--rerun", "--standardize"})

#: Threads that read; none of them is there after a run, unless it hangs.
_READERS = ("streamtrain-window", "streamtrain-lane", "streamtrain-read")

_GROUPS = ("Start", "Run", "Results", "Config")


class Terminated(BaseException):
    """SIGTERM, as an exception: everything that is open is closed on the way out."""


def build_app() -> App:
    """The command, without the verbs' own modules."""
    app = App(
        name="streamtrain",
        version=__version__,
        help_flags=["--help", "-h"],
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
        help=(
            "Train regressors on data that does not fit in memory, and find the minibatch size that"
            " suits it."
        ),
        help_epilogue=(
            "Global flags stand before or after the verb. `streamtrain VERB --help` lists a verb's"
            " flags."
        ),
    )
    groups = {name: Group(name, sort_key=place) for place, name in enumerate(_GROUPS, 1)}
    app["--help"].group = app["--version"].group = Group("Options", sort_key=9)
    for place, (verb, (group, target, text)) in enumerate(VERBS.items()):
        app.command(target, name=verb, help=text, group=groups[group], sort_key=place)
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
    """Move flags that stand before the verb behind it.

    >>> verb_first(["-c", "a.yaml", "--json", "sweep", "data/"])
    ['sweep', '-c', 'a.yaml', '--json', 'data/']
    """
    place = 0
    while place < len(tokens) and tokens[place].startswith("-"):
        place += 2 if tokens[place] in VALUE_FLAGS else 1
    length = 2 if tokens[place : place + 1] in (["bench"], ["config"]) else 1
    return [*tokens[place : place + length], *tokens[:place], *tokens[place + length :]]


def switches(tokens: Sequence[str], names: Collection[str]) -> list[str]:
    """Flags of these names are `on` by themselves, and `off` with `--no-` before: the words that
    Cyclopts is given.

    >>> words = ["sweep", "--no-confirm", "--halving", "--out", "a", "--confirm", "off"]
    >>> switches(words, {"--confirm", "--halving"})
    ['sweep', '--confirm=off', '--halving=on', '--out', 'a', '--confirm=off']
    """
    found, left = [], deque(tokens)
    while left:
        token = left.popleft()
        if token.startswith("--no-") and f"--{token[5:]}" in names:
            token = f"--{token[5:]}=off"
        elif token in names:
            token += f"={left.popleft() if left and left[0] in ('on', 'off') else 'on'}"
        found.append(token)
    return found


def run(tokens: Sequence[str]) -> int:
    """Do what the words say and return the exit code; errors are one line on stderr, with the
    traceback under --debug.
    """
    # Streams that were closed go nowhere, for the life of the process; what opens first would else
    # get their number.
    sys.stdout, sys.stderr = (
        stream or open(os.devnull, "w")  # noqa: SIM115 - stays open for the life of the process
        for stream in (sys.stdout, sys.stderr)
    )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that lacks `≤` gets \u2264, not a crash
            stream.reconfigure(errors="backslashreplace")
    try:
        with _sigterm_raises():
            code = build_app()(
                switches(verb_first(tokens), SWITCHES),
                exit_on_error=False,
                print_error=False,
                result_action="return_value",
            )
            return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # or Python complains when it flushes stdout at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except SystemExit as leave:
        # rich, which writes --help, has turned it into its own exit
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
    """The exit code of a failure, and the line (one for each thing refused) that says it."""
    if isinstance(failure, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(failure, Terminated):
        return 143, "terminated"
    if isinstance(failure, StreamTrainError):
        return failure.exit_code, "\n".join(
            f"error: {line}" for line in str(failure).splitlines() or [type(failure).__name__]
        )
    if isinstance(failure, CycloptsError):
        return 2, f"error: {' '.join(str(failure).split())} See --help."
    if isinstance(failure, MemoryError):
        return 4, "error: out of memory. Lower --memory, or close other programs."
    if isinstance(failure, OSError):
        full = failure.errno in (errno.ENOSPC, errno.EDQUOT)
        return (
            4 if full or failure.errno == errno.EMFILE else 1,
            f"error: {failure}{'. Free space there, or choose another --out.' * full}",
        )
    # Python 3.11 wraps what is raised while a class is made
    if isinstance(failure.__cause__, KeyboardInterrupt | Terminated):
        return explain(failure.__cause__)
    first = (str(failure).splitlines() or [""])[0]
    return (
        1,
        (
            f"error: unexpected {type(failure).__name__}: {first}. Run again with --debug and"
            " report what it prints."
        ),
    )


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    # only the main thread may set signal handlers
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> NoReturn:
    """The console script."""
    code = run(sys.argv[1:])
    if any(thread.name.startswith(_READERS) for thread in threading.enumerate()):
        # A read that hangs was left behind (stream/watch.py). At exit pyarrow would wait for its
        # store, or abort the process.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)
