"""No secret reaches a file of a run or the terminal, however it is spelled and whatever fails."""

import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import data_gen
import streamtrain
from streamtrain.base.redact import Secrets, hiding_in_errors
from streamtrain.run.predict import evaluate, predict

MARK = "zq9MARKED"
QUERY = f"X-Amz-Date=20260101&X-Amz-Signature={MARK}%2Fsigned&sig={MARK}0"
QUICK = ("--max-rows", "256", "--batch-size", "64", "--hidden", "2", "--memory", "1GiB")


class Link(BaseHTTPRequestHandler):
    """Serves one file, whatever the query."""

    content = b""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        if not self.path.startswith("/e.parquet"):
            self.send_error(403 if self.path.startswith("/none.") else 404)
            return
        first, last = 0, len(self.content) - 1
        if found := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first = int(found[1]) if found[1] else len(self.content) - int(found[2])
            last = min(int(found[2]), last) if found[1] and found[2] else last
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.content)}")
        else:
            self.send_response(200)
        body = self.content[first : last + 1]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("secrets") / "data"
    data_gen.generate(folder, kind="linear", rows=2_000, span_rows=1_000, seed=1)
    return str(folder)


@pytest.fixture
def link(data) -> Iterator[str]:
    """Yield a signed link to rows of the same kind."""
    shard = min(Path(data).glob("*.parquet"))
    handler = type("Served", (Link,), {"content": shard.read_bytes()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/e.parquet?{QUERY}"
    server.shutdown()
    thread.join()
    server.server_close()


def leaks(folder) -> list[str]:
    """Return the files below a folder that hold the mark."""
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and MARK.encode() in path.read_bytes()
    ]


OPTIONS = {
    "flag": ("--storage-option", f"secret={MARK}"),
    "flag with =": (f"--storage-option=secret={MARK}",),
    "flag with an underscore": ("--storage_option", f"secret={MARK}"),
    "set": ("--set", f"data.storage_options.secret={MARK}"),
    "set with =": (f"--set=data.storage_options.token={MARK}",),
    "overridden": (
        *("--set", f"data.storage_options.secret={MARK}old"),
        *("--storage-option", "secret=new"),
    ),
}


def run(command, monkeypatch, *words: str):
    monkeypatch.setattr(sys, "argv", ["streamtrain", *words])
    return command(*words)


def test_no_spelling_of_an_option_is_written_or_printed(command, monkeypatch, data, tmp_path):
    words = [word for spelling in OPTIONS.values() for word in spelling]
    monkeypatch.setenv("STREAMTRAIN_DATA__STORAGE_OPTIONS__TOKEN", f"{MARK}-env")
    said = run(command, monkeypatch, "train", data, *QUICK, *words, "-o", "run")
    assert said.code == 0, said.err
    assert MARK not in said.out + said.err
    assert leaks(tmp_path) == []
    assert "secret=***" in (tmp_path / "run" / "events.jsonl").read_text()


@pytest.mark.parametrize("spelling", ["flag", "set", "variable", "file"])
def test_no_query_of_a_link_is_written_or_printed(
    command, monkeypatch, data, tmp_path, link, spelling
):
    words: tuple[str, ...] = ()
    if spelling == "flag":
        words = (f"--eval-data={link}",)
    elif spelling == "set":
        words = ("--set", f"data.eval_data={link}")
    elif spelling == "variable":
        monkeypatch.setenv("STREAMTRAIN_DATA__EVAL_DATA", link)
    else:
        monkeypatch.setenv("STREAMTRAIN_DATA__EVAL_DATA", link.replace(MARK, f"{MARK}other"))
        (tmp_path.parent / "own.yaml").write_text(f"data:\n  eval_data: {link}\n")
        words = ("-c", str(tmp_path.parent / "own.yaml"))
    said = run(command, monkeypatch, "train", data, *QUICK, *words, "-o", "run")
    assert said.code == 0, said.err
    assert MARK not in said.out + said.err
    assert leaks(tmp_path) == []
    assert "e.parquet?***" in (tmp_path / "run" / "config.resolved.yaml").read_text()


FAILING = {
    "no such file": ("train", "LINK0", *QUICK),
    "traceback": ("train", "LINK0", *QUICK, "--debug"),
    "inspect": ("inspect", "LINK0", "--debug"),
    "verify": ("verify", "LINK0"),
    "predict": ("predict", "absent", "LINK0"),
    "ingest": ("ingest", "LINK0", "out"),
    "unknown flag": ("train", "data", f"--eval-dta=https://h/x?sig={MARK}"),
    "unknown key": ("train", "data", "--set", f"data.evaldata=https://h/x?sig={MARK}"),
    "wrong type": ("train", "data", "--set", f"data.target=[https://h/x?sig={MARK}]"),
    "wrong flag of options": ("train", "data", "--storage-options", f"secret={MARK}"),
    "option without a name": ("train", "data", "--storage-option", f"={MARK}"),
    "unknown option": ("train", "s3://b/x", "--storage-option", f"scret={MARK}"),
    "half a pair": ("train", "s3://b/x", "--storage-option", f"key={MARK}"),
    "password": ("train", f"s3://me:{MARK}@b/x"),
    "query of a store": ("inspect", f"az://container/blob.parquet?sv=2020&sig={MARK}"),
    "shown": ("config", "show", f"https://h/x?sig={MARK}", "--storage-option", f"key={MARK}"),
    "shown as JSON": ("config", "show", "--json", "--set", f"data.path=https://h/x?sig={MARK}"),
}


@pytest.mark.parametrize("words", FAILING.values(), ids=FAILING)
def test_no_failure_prints_a_secret(command, monkeypatch, tmp_path, words):
    words = [word.replace("LINK0", f"http://127.0.0.1:1/e.parquet?{QUERY}") for word in words]
    for module in ("filesystem", "store_options"):
        monkeypatch.setattr(f"streamtrain.storage.remote.{module}.REQUESTS_PER_READ", 1e4)
    try:
        said = run(command, monkeypatch, *words, "--set", "fetch.timeout_seconds=1")
    except SystemExit:
        pytest.fail("it ended the process")
    assert said.code or words[0] == "config"
    assert MARK not in said.out + said.err
    assert leaks(tmp_path) == []


def test_the_python_interface_hides_them_too(data, tmp_path, link):
    streamtrain.train(
        data, out=tmp_path / "run", eval_data=link, max_rows=256, batch_size=64, memory="1GiB"
    )
    options = {"secret": MARK, "key": f"{MARK}key"}
    with pytest.raises(streamtrain.StreamTrainError) as failed:
        streamtrain.train(link, out=tmp_path / "two", storage_options=options, memory="1GiB")
    assert MARK not in str(failed.value)
    assert leaks(tmp_path) == []
    secrets = Secrets.of(options, [link])
    assert MARK not in repr(secrets)
    config = streamtrain.api.make_config({"data": {"path": link, "storage_options": options}})
    assert MARK not in f"{config!r} {config.data}"


def told(failure: BaseException | None) -> str:
    """Return what a traceback shows of an exception and of those that caused it."""
    text = ""
    while failure is not None:
        text += f"{failure} {failure!r}\n"
        failure = failure.__cause__ or failure.__context__
    return text


def test_no_cause_of_an_exception_shows_a_query(data, tmp_path, link):
    run = tmp_path / "run"
    streamtrain.train(data, out=run, max_rows=256, batch_size=64, memory="1GiB")
    missing = link.replace("e.parquet", "none.parquet")
    calls = {
        "predict": lambda: predict(run, missing, tmp_path / "p.parquet"),
        "evaluate": lambda: evaluate(run, missing),
        "Regressor": lambda: streamtrain.Regressor(memory="1GiB").fit(missing),
    }
    for name, call in calls.items():
        with pytest.raises(streamtrain.StreamTrainError) as failed:
            call()
        assert MARK not in told(failed.value), name


def test_the_attributes_of_an_os_error_are_hidden_too():
    with pytest.raises(FileNotFoundError) as failed, hiding_in_errors(Secrets.of({"key": MARK})):
        raise FileNotFoundError(2, f"no {MARK}", f"/a/{MARK}", None, f"/b/{MARK}")
    assert str(failed.value) == "[Errno 2] no ***: '/a/***' -> '/b/***'"


def test_words_are_hidden_whole_and_ordinary_ones_stay():
    secrets = Secrets.of({"secret": "test", "key": "a/b+c", "region": "eu"}, ["s3://u:pass@b/x"])
    assert secrets.hide("the latest test, in eu") == "the latest ***, in eu"
    assert secrets.hide("a%2Fb%2Bc a/b+c s3://u:pass@b/x") == "*** *** s3://***@b/x"
    assert secrets.hide("s3://b/day-?.parquet") == "s3://b/day-?.parquet"
    assert Secrets.of({"secret": "ab"}).hide_words(["secret=ab", "lab"]) == ["secret=***", "lab"]
