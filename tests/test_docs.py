"""The user guide: its code blocks run, its flags exist, its links lead somewhere, and its table of
flags is the config's.

`python -m tests.test_docs > docs/flags.md` writes that table after a change of the flags.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from streamtrain.cli.main import BENCH_VERBS, CONFIG_VERBS, VERBS, run
from streamtrain.config import SWEEP_FLAGS, TRAIN_FLAGS, config_keys, flag_name

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
#: Pages whose blocks are run here; the answer to the question is a benchmark of its own, the GPU
#: page needs a GPU, and that of clusters is run in tests/cluster.
RUN = [
    page
    for page in PAGES
    if page.stem not in ("minibatch_question", "gpu", "cluster", "flags", "README")
]
#: Flags beyond those that the project was asked for, and why.
BEYOND = {
    "readers": (
        "a benchmark must say on how many threads it decodes, and a shared machine must be able to"
        " limit them"
    ),
    "rerun": "off: judge winners on the trials that chose them, for a quick look",
    "extend-grid": "off: keep a list of learning rates exactly as given",
    "dry-run": "asked for in words; listed here because it is a flag",
    "tensorboard": "writes for the viewer of that name; needs nothing installed",
    "seconds": "of `doctor`: how long its self check trains",
    "version": "every command has it",
}


def blocks(page):
    """`(language, code)` of every fenced block."""
    return re.findall(
        r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_every_code_block_of_a_page_runs_in_order(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("STREAMTRAIN_FETCH__MEMORY", "1GiB")
    monkeypatch.setenv("STREAMTRAIN_TRAIN__COMPILE", "off")
    # pictures are the report's tests' business
    monkeypatch.setattr("streamtrain.report.write.draw", lambda charts: {})
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
    """Every flag of every verb, as its help has them."""
    verbs = [
        *([verb] for verb in VERBS),
        *(["config", verb] for verb in CONFIG_VERBS),
        *(["bench", verb] for verb in BENCH_VERBS),
    ]
    code = f"from streamtrain.cli.main import run\nfor words in {verbs!r}: run([*words, '--help'])"
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": ""},
    ).stdout
    return set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", said)) | {"version", "help"}


def flags_page() -> str:
    """`docs/flags.md`: every flag that sets the config, its key, default and meaning; then those
    beyond what was asked for.
    """
    lines = [
        "# Every flag",
        "",
        (
            "Flags of `sweep` and `train`, and the keys of the config that they set. `streamtrain"
            " VERB --help` has the rest."
        ),
        "",
        "| flag | key | default | meaning |",
        "|---|---|---|---|",
    ]
    keys = config_keys()
    for flag, key in (TRAIN_FLAGS | SWEEP_FLAGS).items():
        default = keys[key].get_default(call_default_factory=True)
        shown = (
            {None: "", True: "on", False: "off"}.get(default, default)
            if default is None or isinstance(default, bool)
            else default
        )
        shown = ", ".join(map(str, shown)) if isinstance(shown, tuple) else shown
        lines.append(
            f"| `{flag_name(flag)}` | `{key}` | {shown} |"
            f" {keys[key].description.replace('|', chr(92) + '|')} |"
        )
    flagged = set((TRAIN_FLAGS | SWEEP_FLAGS).values())
    lines += [
        "",
        "Keys without a flag, for a file or `--set`:",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
    ]
    for key, field in keys.items():
        if key not in flagged:
            default = field.get_default(call_default_factory=True)
            shown = (
                ""
                if default is None
                else {True: "on", False: "off"}[default]
                if isinstance(default, bool)
                else default
            )
            lines.append(f"| `{key}` | {shown} | {field.description.replace('|', chr(92) + '|')} |")
    lines += [
        "",
        "## Flags beyond what was asked for, each with its reason",
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
