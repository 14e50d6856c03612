"""A lower floor never imports a higher one, and a heavy library is imported behind its doors only
(DESIGN.md §1 and §3).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Folders and files of streamtrain, lowest floor first: what is on a line imports only that line
#: and those above it.
FLOORS = (
    ("base", "errors", "types", "records", "config"),
    ("plan",),
    ("storage", "kernels"),
    ("stream",),
    ("training", "science"),
    ("run",),
    ("report", "cluster", "bench"),
    ("api", "regressor", "cli", "__main__", "__init__"),
)
#: data_gen is on the floor of the stream, but may import only plan, storage, kernels and below.
DATA_GEN_FLOOR, DATA_GEN_IMPORTS = 3, 2
#: Heavy library → the only modules of streamtrain that import it.
DOORS = {
    "pyarrow": (
        "storage.column_table",
        "storage.datetime_values",
        "storage.decode",
        "storage.foreign",
        "storage.inspect",
        "storage.parquet",
        "storage.remote",
        "storage.verify",
        "storage.write",
        "bench.baselines",
    ),
    "zarr": ("storage.zarr",),
    "zarrs": ("storage.zarr.zarr_reader",),
    "obstore": ("storage.remote.filesystem",),
    "fsspec": ("storage.remote.filesystem",),
    "deltalake": ("storage.foreign.delta_table",),
    "pyiceberg": ("storage.foreign.iceberg_table",),
    "duckdb": ("storage.foreign.duckdb_table",),
    "cramjam": ("storage.parquet.fast_pages",),
    "isal": ("storage.parquet.fast_pages",),
    "google_crc32c": ("storage.zarr.zarr_chunks",),
    "dask": ("stream.fetch", "cluster"),
    "distributed": ("cluster",),
    "numba": ("kernels",),
    "torch": (
        "stream.pinned_copy",
        "stream.torch_stream",
        "training",
        "cluster.allreduce.collective",
        "bench.baselines",
        "bench.torch_loop",
    ),
    "sklearn": ("regressor",),
    "altair": ("report.charts",),
    "vl_convert": ("report.render",),
}
#: Modules that are imported inside a function, by whom: what most runs need not wait for.
DEFERRED = {
    "cluster.runner": ("cluster.choice",),
    "report.pages": ("report.write",),
    "run.measure": ("report.expected_time",),
    "run.reserve": ("report.dry_run", "report.expected_time"),
    "run.sweep": ("api",),
    "storage.imported": ("storage.dataset",),
    "storage.zarr.zarr_reader": ("storage.dataset", "storage.manifest", "storage.readers"),
    "storage.zarr.zarr_writer": ("storage.write.writer",),
    "training.cuda_engine": ("training.engine_choice",),
    "training.cuda_fit": ("training.device_choice", "training.engine_choice"),
    "training.factory": ("training.engine_choice",),
    "training.model_io": ("api",),
    "training.network": ("training.fitted_model",),
    "training.torch": ("training.model",),
    "training.torch.device_feed": ("training.device_choice", "training.engine_choice"),
    "training.torch.shared_rows": ("training.engine_choice",),
    "training.torch.torch_engine": ("training.engine_choice",),
}


def within(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def floor(module: str) -> int | None:
    """The floor of a module of streamtrain or data_gen; None if it is not in the table."""
    if within(module, "data_gen"):
        return DATA_GEN_FLOOR
    name = module.removeprefix("streamtrain").removeprefix(".").split(".")[0] or "__init__"
    return next((number for number, names in enumerate(FLOORS) if name in names), None)


def imports(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[tuple[str, bool]]:
    """Every imported module, with whether the import is inside a function.

    `from a import b` gives `a.b`.
    """
    pending: list[tuple[ast.AST, bool]] = [(tree, False)]
    while pending:
        node, lazy = pending.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = (
                module.split(".")[: len(module.split(".")) - node.level + is_package]
                if node.level
                else []
            )
            source = ".".join([*above, *filter(None, [node.module])])
            yield from ((f"{source}.{alias.name}", lazy) for alias in node.names)
        elif not isinstance(node, ast.expr):
            inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            pending.extend((child, inside) for child in ast.iter_child_nodes(node))


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with a module's imports, one sentence each."""
    own, wrong = floor(module), []
    if own is None:
        return [f"{module} is on no floor: add it to FLOORS and to DESIGN.md §3"]
    for name, lazy in imports(ast.parse(source), module, is_package=is_package):
        top, inner = name.split(".")[0], module.removeprefix("streamtrain.")
        if top in ("streamtrain", "data_gen"):
            other = floor(name)
            if name == "streamtrain.__version__":  # a string, not a module
                continue
            if (
                other is None
                or other > own
                or (within(module, "data_gen") and other > DATA_GEN_IMPORTS and top != "data_gen")
            ):
                wrong.append(f"{module} (floor {own}) imports {name} (floor {other})")
            if top == "data_gen" and not (within(module, "data_gen") or within(inner, "cli")):
                wrong.append(f"{module} imports {name}: only cli/ and tests do")
            imported = name.rpartition(".")[0].removeprefix("streamtrain.")
            may_wait = within(inner, "cli") or inner in DEFERRED.get(imported, ())
            if lazy and not may_wait and module != "streamtrain":
                wrong.append(f"{module} imports {name} inside a function")
        doors = DOORS.get(top, (inner,))
        if not any(within(inner, door) for door in doors):
            wrong.append(f"{module} imports {name} outside its doors: {', '.join(doors)}")
    return wrong


def modules() -> list[tuple[str, Path]]:
    paths = sorted(
        path for package in ("streamtrain", "data_gen") for path in (ROOT / package).rglob("*.py")
    )
    return [
        (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path)
        for path in paths
    ]


@pytest.mark.parametrize(
    ("module", "path"), [pytest.param(*pair, id=pair[0]) for pair in modules()]
)
def test_module_keeps_to_its_floor_and_doors(module, path):
    assert (
        violations(module, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py")
        == []
    )


PLANTED = {
    "upward": (
        "streamtrain.storage.write.ingest",
        "from streamtrain.run.sweep import sweep",
        "floor 5",
    ),
    "upward by package name": (
        "streamtrain.kernels.shuffle",
        "from streamtrain import api",
        "floor 7",
    ),
    "upward and relative": (
        "streamtrain.storage.write.ingest",
        "from ...report import markdown",
        "floor 6",
    ),
    "upward for types only": (
        "streamtrain.plan.order",
        "if TYPE_CHECKING:\n    import streamtrain.stream",
        "floor 3",
    ),
    "generator above floor 2": (
        "data_gen.linear",
        "from streamtrain.stream.block import Block",
        "floor 3",
    ),
    "generator in the library": (
        "streamtrain.run.sweep",
        "import data_gen",
        "only cli/ and tests do",
    ),
    "lazy": (
        "streamtrain.run.sweep",
        "def f():\n    from streamtrain.plan.order import key",
        "inside a function",
    ),
    "heavy at its neighbour's": (
        "streamtrain.plan.plan",
        "import dask.threaded",
        "outside its doors",
    ),
    "heavy inside a function": (
        "streamtrain.report.html",
        "def f():\n    import torch",
        "outside its doors",
    ),
    "pyarrow in the zarr door": (
        "streamtrain.storage.zarr.zarr_chunks",
        "import pyarrow as pa",
        "outside its doors",
    ),
    "an object store in another module of storage": (
        "streamtrain.storage.remote.remote_file",
        "from obstore import store",
        "outside its doors",
    ),
    "on no floor": ("streamtrain.helpers", "import math", "on no floor"),
}


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [pytest.param(*case, id=name) for name, case in PLANTED.items()],
)
def test_a_planted_violation_is_caught(module, source, message):
    assert any(message in sentence for sentence in violations(module, source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param(
            "streamtrain.cli.sweep_command",
            "def f():\n    from streamtrain import api",
            id="lazy in cli",
        ),
        pytest.param("streamtrain.storage.zarr.zarr_reader", "import zarr", id="door"),
        pytest.param(
            "data_gen.linear",
            "from data_gen.truth import gauss\nfrom streamtrain.storage.write.writer import write",
            id="generator",
        ),
        pytest.param("streamtrain.plan.order", "def f():\n    import math", id="lazy of another's"),
        pytest.param(
            "streamtrain.report.write",
            "def f():\n    from streamtrain.report.pages import draw_pages",
            id="deferred",
        ),
    ],
)
def test_what_is_allowed_passes(module, source):
    assert violations(module, source) == []
