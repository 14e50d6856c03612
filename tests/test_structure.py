"""Files can be found: names are unique, lengths bounded, and every module has its tests."""

import re
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "streamtrain", ROOT / "tests"
#: The most files on the package's own level, and the most lines of a file.
TOP_FILES, FILE_LINES = 10, 400
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if not path.stem.startswith("__")]
#: Module without a test file of the same name → the files that test it.
WHERE: dict[str, list[str]] = tomllib.loads((TESTS / "where.toml").read_text(encoding="utf-8"))


def own_test(module: Path) -> list[Path]:
    """The test file of the module's name, in the folder of its department or beside them."""
    department = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return [
        path
        for path in (
            TESTS / department / f"test_{module.stem}.py",
            TESTS / f"test_{module.stem}.py",
        )
        if path.exists()
    ]


def test_the_packages_own_level_is_small():
    assert len(list(PACKAGE.glob("*.py"))) <= TOP_FILES


def test_no_two_modules_have_one_name():
    counts = Counter(path.name for path in MODULES)
    assert [name for name, count in counts.items() if count > 1] == []


def test_durations_and_budgets_are_taken_from_clocks_that_never_jump():
    """`time.time` may go back during a run: it only says when something was, not for how long."""
    calls = re.compile(r"\btime\.time(_ns)?\(|\b(datetime|date)\.(now|utcnow|today)\(")
    found = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if calls.search(path.read_text(encoding="utf-8"))
    }
    assert found == {
        "run/open_run.py",  # the date in the name of a folder
        "run/tensorboard.py",  # the time of an event file; TensorBoard orders by rows
        "storage/imported.py",  # ages of files, whose times are of the same clock
        "storage/remote/filesystem.py",  # when a credential expires
        "storage/table_files.py",  # the key of a file on a web server, which has no date
    }


def test_no_file_is_too_long():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in MODULES
    }
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES} == {}


def test_every_module_has_tests_that_can_be_found():
    missing = [
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if not own_test(path) and str(path.relative_to(PACKAGE)) not in WHERE
    ]
    assert missing == []


def test_the_table_of_tests_is_true():
    for module, tests in WHERE.items():
        assert (PACKAGE / module).exists(), module
        assert not own_test(PACKAGE / module), f"{module} has a test file of its own name"
        assert tests, module
        for test in tests:
            assert (TESTS / test).exists(), f"{module}: {test}"
