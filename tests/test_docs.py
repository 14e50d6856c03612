"""The user guide: code blocks run, flags and links exist, and the table of flags is current.

After a change of the flags, write that table with `python -m tests.test_docs > docs/flags.md`.
"""

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

import pytest

from streamtrain.cli.main import BENCH_VERBS, CONFIG_VERBS, VERBS, run
from streamtrain.config import SWEEP_FLAGS, TRAIN_FLAGS, config_keys, flag_name

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
#: Pages whose code blocks run here. minibatch_question.md is a separate benchmark, gpu.md needs a
#: GPU, cluster.md runs in tests/cluster, and api.md is made from docstrings.
RUN = [
    page
    for page in PAGES
    if page.stem not in ("minibatch_question", "gpu", "cluster", "api", "flags", "README")
]
#: Flags beyond the project's requirements, and why they exist.
BEYOND = {
    "readers": "benchmarks must state how many threads decode, and shared machines limit them",
    "rerun": "off: judge learning rates by the trials that selected them, for a quick look",
    "extend-grid": "off: keep a list of learning rates exactly as given",
    "no-report": "runs of a second need not wait for a page and charts, which `report` makes later",
    "dry-run": "shows the plan of a run; a requirement, but not named as a flag",
    "tensorboard": "writes event files for TensorBoard, which need not be installed",
    "seconds": "of `doctor`: how long its self-check trains",
    "version": "usual for a command",
}


def blocks(page):
    """Return `(language, code)` of every fenced code block."""
    return re.findall(
        r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_every_code_block_of_a_page_runs_in_order(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("STREAMTRAIN_FETCH__MEMORY", "1GiB")
    monkeypatch.setenv("STREAMTRAIN_TRAIN__COMPILE", "off")
    monkeypatch.setenv("STREAMTRAIN_SWEEP__MEASURE", "none")  # tests/run measures after sweeps
    names: dict = {}
    ran = 0
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, page.name, "exec"), names)
            ran += 1
        for line in code.splitlines() if language == "sh" else ():
            program, *words = shlex.split(line)
            assert program == "streamtrain", line
            assert run([*words, "--quiet"]) == 0, f"{line}\n{capsys.readouterr().err}"
            ran += 1
    assert ran or page.stem == "faq"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_flag_verb_and_link_of_a_page_exists(page, known_flags):
    text = page.read_text(encoding="utf-8")
    code = " ".join(re.findall(r"`[^`\n]+`", text)) + " ".join(
        body for language, body in blocks(page) if language == "sh"
    )
    assert set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", code)) - known_flags - {"logdir"} == set()
    verbs = {match.split()[0] for match in re.findall(r"\bstreamtrain ([a-z]+)", code)}
    assert verbs <= {*VERBS, "bench", "config"}, page.name
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists() or link == "minibatch_question.md", link


@pytest.fixture(scope="session")
def known_flags():
    """Every flag in the `--help` of every verb."""
    verbs = [
        *([verb] for verb in VERBS),
        *(["config", verb] for verb in CONFIG_VERBS),
        *(["bench", verb] for verb in BENCH_VERBS),
    ]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setenv("COLUMNS", "200")
        for words in verbs:
            assert run([*words, "--help"]) == 0
    return set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", said.getvalue())) | {"version", "help"}


def shown_default(field) -> str:
    default = field.get_default(call_default_factory=True)
    if default is None:
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def meaning(field) -> str:
    return field.description.replace("|", r"\|")


def flags_page() -> str:
    """Return docs/flags.md: every flag that sets a config key, the other keys, and `BEYOND`."""
    lines = [
        "# Every flag",
        "",
        (
            "Flags of `sweep` and `train`, and the config keys that they set. `streamtrain VERB"
            " --help` shows all flags of a verb."
        ),
        "",
        "| flag | key | default | meaning |",
        "|---|---|---|---|",
    ]
    keys = config_keys()
    for flag, key in (TRAIN_FLAGS | SWEEP_FLAGS).items():
        lines.append(
            f"| `{flag_name(flag)}` | `{key}` | {shown_default(keys[key])} | {meaning(keys[key])} |"
        )
    flagged = set((TRAIN_FLAGS | SWEEP_FLAGS).values())
    lines += [
        "",
        "Keys without a flag, for a config file or `--set`:",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
    ]
    for key, field in keys.items():
        if key not in flagged:
            lines.append(f"| `{key}` | {shown_default(field)} | {meaning(field)} |")
    lines += [
        "",
        "## Flags beyond the requirements, each with its reason",
        "",
        "| flag | reason |",
        "|---|---|",
    ]
    lines += [f"| `--{flag}` | {reason} |" for flag, reason in BEYOND.items()]
    return "\n".join(lines) + "\n"


def test_the_page_of_flags_is_that_of_the_tables():
    assert (DOCS / "flags.md").read_text(encoding="utf-8") == flags_page(), (
        "python -m tests.test_docs > docs/flags.md"
    )


if __name__ == "__main__":
    sys.stdout.write(flags_page())
