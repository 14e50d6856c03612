"""Draw charts in separate processes.

The JavaScript engine that draws them needs a lot of memory and aborts if it cannot get it. In a
separate process, such an abort does not lose the result of a run under a memory limit, and the
memory does not count towards the run's peak.

The processes start early and load the engine while the charts are prepared, or while a command
imports its libraries. Then they draw them. They also bundle the scripts of the page, unless an
earlier report has left them in the user's cache folder.
"""

import base64
import hashlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from streamtrain.base.atomic_files import remove_temporaries, write_atomically
from streamtrain.base.budget import default_readers
from streamtrain.base.user_cache import user_cache
from streamtrain.errors import ResourceError

#: What the bundle does besides defining Vega, Vega-Lite and Vega-Embed.
_SNIPPET = "window.vegaEmbed = vegaEmbed;"

#: Each takes 80 MiB when its engine is loaded.
MOST_PROCESSES = 2

#: A process ends after this long without a request.
IDLE_SECONDS = 120.0

#: A chart without data: drawing it loads the engine and compiles Vega.
_EMPTY_CHART = {"data": {"values": []}, "mark": "point", "encoding": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """`pictures`: the SVG text and PNG bytes of each chart, by name. `bundle`: see `Drawing`."""

    pictures: dict[str, tuple[str, bytes]]
    bundle: str


class Drawing:
    """Processes that draw the charts of one report. Needs neither a browser nor the network.

    Use it as a context manager: its processes have ended when the block is left. They load their
    engine at once, so enter it early. A process without a request ends after `IDLE_SECONDS`,
    because a run may take days, and is started again when it is needed.
    """

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        self._started = 0.0
        self._failure: OSError | None = None

    def __enter__(self) -> Self:
        """Start the processes. If that fails, `draw` raises the error."""
        self._started = time.monotonic()
        try:
            for _ in range(min(MOST_PROCESSES, default_readers())):
                self._children.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "streamtrain.report.render"],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                    )
                )
        except OSError as error:
            self._failure = error
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, whether or not they have drawn anything."""
        for child in self._children:
            child.kill()
        for child in self._children:
            with child:  # closes its pipes and waits for it
                pass
        self._children = []

    def draw(self, charts: Mapping[str, Any]) -> Drawn:
        """Draw complete Vega-Lite specs; can be called only once.

        The bundle is Vega, Vega-Lite and Vega-Embed as one script that sets `window.vegaEmbed`. It
        includes the expression interpreter, which needs no `eval`.

        Raises ResourceError if a process fails.
        """
        if self._have_ended():
            self.__exit__()
            self.__enter__()
        cache = _cache_file()
        bundle = _read_bundle(cache)
        answer = self._ask({"charts": charts, "bundle": bundle is None})
        if bundle is None:
            bundle = str(answer["bundle"]).replace("</script", "<\\/script")
            _keep_bundle(cache, bundle)
        pictures = {
            name: (svg, base64.b64decode(png)) for name, (svg, png) in answer["charts"].items()
        }
        return Drawn(pictures=pictures, bundle=bundle)

    def _have_ended(self) -> bool:
        """Return whether a process has ended, or may end at any moment."""
        waited = time.monotonic() - self._started
        ended = any(child.poll() is not None for child in self._children)
        return self._failure is None and (ended or waited > IDLE_SECONDS / 2)

    def _ask(self, request: Mapping[str, Any]) -> Any:
        """Split the charts of a request among the processes, and return one answer."""
        if self._failure is not None:
            raise ResourceError(
                f"the charts could not be drawn ({self._failure}). Run streamtrain report where"
                " Python can start another process."
            ) from self._failure
        charts, number = list(request["charts"].items()), len(self._children)
        requests = [
            # the last process has the fewest charts, and bundles the scripts
            {"charts": charts[i::number], "bundle": request["bundle"] and i == number - 1}
            for i in range(number)
        ]
        with ThreadPoolExecutor(number) as threads:
            answers = list(threads.map(_answer, self._children, requests))
        drawn = dict(pair for answer in answers for pair in answer["charts"].items())
        return {
            "charts": {name: drawn[name] for name, _ in charts},
            "bundle": answers[-1]["bundle"],
        }


def _answer(child: subprocess.Popen[bytes], request: Mapping[str, Any]) -> Any:
    output, errors = child.communicate(json.dumps(request).encode())
    if child.returncode:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise ResourceError(
            f"the charts could not be drawn (exit {child.returncode}: {last[0]}). Run"
            " streamtrain report with more memory."
        )
    return json.loads(output)


def _cache_file() -> Path | None:
    """Return where the bundle of this version of vl-convert is kept; None without a home folder."""
    key = hashlib.sha256(_SNIPPET.encode()).hexdigest()[:8]
    folder = user_cache()
    return folder and folder / f"vega-{version('vl-convert-python')}-{key}.js"


def _read_bundle(cache: Path | None) -> str | None:
    """Return the cached bundle, whose first line is the hash of the rest; None if unusable."""
    if cache is None:
        return None
    try:
        digest, _, content = cache.read_bytes().partition(b"\n")
    except OSError:
        return None
    intact = digest == hashlib.sha256(content).hexdigest().encode()
    return content.decode() if intact and content else None


def _keep_bundle(cache: Path | None, bundle: str) -> None:
    """Cache the bundle for the next report; do nothing if the folder cannot be written."""
    if cache is None:
        return
    content = bundle.encode()
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        remove_temporaries(cache.parent)
        write_atomically(cache, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def _serve() -> None:
    # imported by this process only: the engine's memory must not count towards the run's peak
    import vl_convert

    vl_convert.vegalite_to_svg(_EMPTY_CHART, allowed_base_urls=[])
    asked, _, _ = select.select([sys.stdin], [], [], IDLE_SECONDS)
    if not asked:
        os._exit(0)
    request = json.load(sys.stdin)
    charts = {}
    for name, spec in request["charts"]:
        svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
        charts[name] = svg, base64.b64encode(vl_convert.svg_to_png(svg, scale=2)).decode()
    bundle = vl_convert.javascript_bundle(_SNIPPET) if request["bundle"] else None
    json.dump({"charts": charts, "bundle": bundle}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # a normal exit would spend time tearing down the engine


if __name__ == "__main__":
    _serve()
