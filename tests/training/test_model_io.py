"""A trained model outside this program: as a plain module, and as ONNX in onnxruntime."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import data_gen
from streamtrain import api
from streamtrain.errors import ConfigError, DataError, ResourceError
from streamtrain.training import model_file, model_io
from streamtrain.training.factory import load_factory
from streamtrain.training.fitted_model import save_model
from streamtrain.training.model import Shape, initial_parameters
from streamtrain.training.model_io import load_model, onnx_bytes
from streamtrain.training.network import Network
from streamtrain.types import Standardization
from tests.cli.conftest import command  # noqa: F401 - a fixture
from tests.training.test_usual_torch import default_dtype

runtime = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed; pip install -e '.[test]'"
)
pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")

MODULES = '''
import torch
from torch import nn

class Waves(nn.Module):
    """Constants of the trial, which are in the state or not; a LayerNorm."""
    def __init__(self, n):
        super().__init__()
        self.register_buffer("waves", torch.randn(n, 8))
        self.register_buffer("phases", torch.rand(8), persistent=False)
        self.body = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 1))
    def forward(self, x): return self.body(torch.sin(x @ self.waves + self.phases))
class Looks(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.out = nn.Linear(n, 1)
    def forward(self, x): return self.out(x) * (1.0 if x.sum() > -1e9 else 2.0)
'''


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    (folder / "modules_to_export.py").write_text(MODULES)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "friedman"
    data_gen.generate(folder, kind="friedman2", rows=4_000, span_rows=2048, seed=1)
    return folder


def raw(data) -> np.ndarray:
    """Return the raw features of all shards."""
    tables = [pq.read_table(path) for path in sorted(data.glob("*.parquet"))]
    return np.concatenate(
        [
            np.stack([table[name].to_numpy() for name in table.column_names[:-1]], axis=1)
            for table in tables
        ]
    )


def run(content: bytes, x: np.ndarray) -> np.ndarray:
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["prediction"], {"features": x})[0]


def test_train_then_export(command, data, tmp_path):
    """The whole command, for any number of rows.

    The means of the raw features are far from 0 (friedman2: hundreds).
    """
    said = command(
        "train",
        data,
        "-o",
        "run",
        "--max-rows",
        "4096",
        "--hidden",
        "8,8",
        "--activation",
        "silu",
        "-q",
        "--memory",
        "1GiB",
    )
    assert said.code == 0, said.err
    said = command("export", "run", "-o", "out/model.onnx", "--json")
    assert said.code == 0, said.err
    about = json.loads(said.out)
    assert (about["features"], about["target"], about["bytes"]) == (
        ["x0", "x1", "x2", "x3"],
        "y",
        (tmp_path / "out" / "model.onnx").stat().st_size,
    )
    x = raw(data)[:1000]
    expected = load_model(tmp_path / "run")(torch.from_numpy(x)).detach().numpy()
    assert expected.std() > 10, "predictions are in the target's own units"
    content = (tmp_path / "out" / "model.onnx").read_bytes()
    for rows in (1000, 1, 0):
        np.testing.assert_allclose(run(content, x[:rows]), expected[:rows], rtol=1e-5, atol=1e-3)
    metadata = (
        runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        .get_modelmeta()
        .custom_metadata_map
    )
    assert json.loads(metadata["features"]) == ["x0", "x1", "x2", "x3"]
    assert metadata["target"] == "y"
    assert json.loads(metadata["transform"]) is None
    again = command("export", "run", "-o", "out/model.onnx")
    assert again.code == 2
    assert "nothing is overwritten" in again.err


def test_imputation_is_in_the_file():
    shape = Shape(widths=(3, 4, 1), activation="gelu")
    network = Network(
        shape,
        Standardization(mean=np.array([1e6, 2, 3, 5]), scale=np.array([1e-3, 2, 0.5, 0.1])),
        ("a", "b", "c"),
        "y",
        fill=np.array([1e6 + 5, 1, 2]),
    )
    network.load_flat(initial_parameters(shape, 0, 0))
    x = np.array([[1e6, 1, 2], [np.nan, 1, 2], [np.inf, 1, 2], [1e6 + 5, 1, 2]], dtype=np.float32)
    with default_dtype(torch.float64):  # changes nothing: an ONNX file takes float32
        content = onnx_bytes(network)
    predicted = run(content, x)
    expected = network(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)
    assert predicted[1] == predicted[2] == predicted[3] != predicted[0]


def test_a_trained_model_is_a_plain_module(data, tmp_path):
    """Its layers give the same predictions on features that are standardised by hand.

    So a user needs nothing of this program but the means and the scales.
    """
    model = api.train(str(data), out=tmp_path / "run", max_rows=2048, hidden=[8], memory="1GiB")
    plain = torch.nn.Sequential(*model.layers)
    x = raw(data)[:100]
    z = torch.from_numpy(
        ((x - model.mean[:-1].numpy()) * model.scale[:-1].numpy()).astype(np.float32)
    )
    expected = plain(z).double() / model.scale[-1] + model.mean[-1]
    np.testing.assert_allclose(
        model(torch.from_numpy(x)).detach().numpy(), expected.detach().numpy(), rtol=1e-6
    )
    assert [type(layer).__name__ for layer in plain] == ["Linear", "ReLU", "Linear"]
    scripted = torch.export.export(model, (torch.zeros(5, 4),)).module()
    np.testing.assert_allclose(
        scripted(torch.from_numpy(x[:5])).detach().numpy(), expected[:5].detach().numpy(), rtol=1e-6
    )


class Frame:
    """A table as in pandas and polars: names in `columns`, chosen by a list of them."""

    def __init__(self, table):
        self.table, self.columns = table, table.column_names

    def __getitem__(self, names):
        return Frame(self.table.select(names))

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.table, dtype=dtype)


def test_a_trained_model_predicts_from_arrays_and_tables():
    shape = Shape(widths=(3, 4, 1), activation="tanh")
    standard = Standardization(mean=np.array([1.0, 2, 3, 5]), scale=np.array([1, 2, 0.5, 0.1]))
    network = Network(shape, standard, ("a", "b", "c"), "y")
    network.load_flat(initial_parameters(shape, 0, 0))
    x = np.random.default_rng(0).normal(size=(2500, 3))
    expected = network.predict(torch.from_numpy(x))[:, 0].detach().numpy()
    predictions = network.predict(x)
    assert predictions.shape == (2500,)
    assert predictions.dtype == np.float64
    np.testing.assert_allclose(predictions, expected, rtol=1e-6)
    x.flags.writeable = False
    for other in (x, np.asfortranarray(x), x.tolist()):
        assert np.array_equal(network.predict(other), predictions)
    assert np.array_equal(network.predict(x[7:8]), predictions[7:8]), "rows are independent"
    assert network.predict(x[:0]).shape == (0,)
    table = pa.table({"y": 0 * x[:, 0], "c": x[:, 2], "b": x[:, 1], "a": x[:, 0]})
    assert np.array_equal(network.predict(table), predictions), "by name"
    assert np.array_equal(network.predict(Frame(table)), predictions)
    for lacking in (table.select(["a", "b"]), Frame(table.select(["a", "b"]))):
        with pytest.raises(DataError, match="no column 'c'; the model takes a, b, c"):
            network.predict(lacking)


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (4, 4), (2,), ()], ids=str)
def test_other_numbers_of_features_are_refused(shape):
    """A single column would be taken for each of the features."""
    network = Network(
        Shape(widths=(3, 1), activation="tanh"), Standardization.identity(4), ("a", "b", "c"), "y"
    )
    for values in (np.zeros(shape), torch.zeros(shape)):
        with pytest.raises(DataError, match=r"takes 3 features \(a, b, c\).*\(rows, 3\)"):
            network.predict(values)


def test_a_model_of_a_factory_is_trained_saved_loaded_and_exported(
    command, data, tmp_path, modules, monkeypatch
):
    words = (
        "--model",
        "modules_to_export:Waves",
        "--max-rows",
        "2048",
        "--seed",
        "3",
        "-q",
        "--memory",
        "1GiB",
        "--device",
        "cpu",
    )
    refused = command("train", data, "-o", "never", "--engine", "fused", *words)
    assert refused.code == 2
    assert "--model modules_to_export:Waves is for --engine torch" in refused.err
    assert "perceptrons" in refused.err
    assert command("train", data, "-o", "run", *words).code == 0
    first = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[0])
    assert (first["engine"], first["engine_reason"]) == (
        "torch",
        "--model modules_to_export:Waves is for the torch engine",
    )
    with pytest.raises(ConfigError, match="run: the model needs the function modules_to_export:W"):
        load_model(tmp_path / "run")
    with pytest.raises(ConfigError, match="was trained with modules_to_export:Waves"):
        load_model(tmp_path / "run", model="modules_to_export:Looks")
    named = "--model", "modules_to_export:Waves"
    loaded = load_model(tmp_path / "run", model=named[1])
    constants = load_factory("modules_to_export:Waves", 4).for_trial(3, 0).module()
    assert torch.equal(loaded.layers.waves, constants.waves)
    assert torch.equal(loaded.layers.phases, constants.phases)
    x = raw(data)[:500]
    expected = loaded(torch.from_numpy(x)).detach().numpy()
    assert command("export", "run").code == 2
    assert command("export", "run", *named).code == 0
    np.testing.assert_allclose(
        run((tmp_path / "run" / "model.onnx").read_bytes(), x), expected, rtol=1e-4, atol=1e-2
    )
    assert command("predict", "run", data, *named, "-o", "p.parquet").code == 0
    np.testing.assert_allclose(
        pq.read_table(tmp_path / "p.parquet")["prediction"].to_numpy()[:500],
        expected[:, 0],
        rtol=1e-5,
        atol=1e-3,
    )
    (modules / "modules_to_export.py").write_text(MODULES + "\n# changed\n")
    with pytest.warns(UserWarning, match="changed since the model was trained"):
        load_model(tmp_path / "run", model=named[1])
    monkeypatch.delitem(__import__("sys").modules, "modules_to_export")
    (modules / "modules_to_export.py").rename(modules / "elsewhere.py")
    try:
        with pytest.raises(
            ConfigError,
            match=(
                "run: the trained model cannot be constructed: --model modules_to_export:Waves:"
                " there is no module"
            ),
        ):
            load_model(tmp_path / "run", model=named[1])
    finally:
        (modules / "elsewhere.py").rename(modules / "modules_to_export.py")
        (modules / "modules_to_export.py").write_text(MODULES)


def test_what_cannot_be_exported_says_so(tmp_path, monkeypatch):
    factory = load_factory("modules_to_export:Looks", 2)
    network = Network(factory, Standardization.identity(3), ("a", "b"), "y")
    save_model(network, tmp_path)
    with pytest.raises(ConfigError, match="cannot be written as ONNX") as caught:
        onnx_bytes(load_model(tmp_path, model="modules_to_export:Looks"))
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(model_io.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs onnx and onnxscript, .*streamtrain\[onnx\]"):
        onnx_bytes(network)


def test_a_model_that_diverged_is_not_exported(command, tmp_path):
    network = Network(
        Shape(widths=(2, 3, 1), activation="relu"), Standardization.identity(3), ("a", "b"), "y"
    )
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    save_model(network, tmp_path)
    said = command("export", str(tmp_path))
    assert said.code == 3
    assert "diverged" in said.err
    assert not (tmp_path / "model.onnx").exists()


def test_a_file_of_tensors_that_memory_does_not_hold_is_refused(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"large")

    def cannot_map(path, framework):
        raise MemoryError("Cannot allocate memory (os error 12)")  # as safetensors does

    monkeypatch.setattr(model_file, "safe_open", cannot_map)
    with pytest.raises(ResourceError, match="5 B does not fit the memory"):
        model_file.read_tensor_header(tmp_path / "model.safetensors")
