"""Draw charts in a separate process.

The JavaScript engine that draws them needs a lot of memory and aborts if it cannot get it. In a
separate process, such an abort does not lose the result of a run under a memory limit, and the
memory does not count towards the run's peak.

The process starts early and loads the engine while the charts are prepared. Then it draws them. It
also bundles the scripts of the page, unless an earlier report has left them in the user's cache
folder.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from streamtrain.base.atomic_files import remove_temporaries, write_atomically
from streamtrain.base.user_cache import user_cache
from streamtrain.errors import ResourceError

#: What the bundle does besides defining Vega, Vega-Lite and Vega-Embed.
_SNIPPET = "window.vegaEmbed = vegaEmbed;"

#: A chart without data: drawing it loads the engine and compiles Vega.
_EMPTY_CHART = {"data": {"values": []}, "mark": "point", "encoding": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """`pictures`: the SVG text and PNG bytes of each chart, by name. `bundle`: see `Drawing`."""

    pictures: dict[str, tuple[str, bytes]]
    bundle: str


class Drawing:
    """A process that draws the charts of one report. Needs neither a browser nor the network.

    Use it as a context manager: its process has ended when the block is left.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None

    def __enter__(self) -> Self:
        """Start the process. If that fails, `draw` raises the error."""
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "streamtrain.report.render"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            self._failure = error
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, whether or not it has drawn anything."""
        if self._child is not None:
            self._child.kill()
            with self._child:  # closes its pipes and waits for it
                pass

    def draw(self, charts: Mapping[str, Any]) -> Drawn:
        """Draw complete Vega-Lite specs; can be called only once.

        The bundle is Vega, Vega-Lite and Vega-Embed as one script that sets `window.vegaEmbed`. It
        includes the expression interpreter, which needs no `eval`.

        Raises ResourceError if the process fails.
        """
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

    def _ask(self, request: Mapping[str, Any]) -> Any:
        if self._child is None:
            raise ResourceError(
                f"the charts could not be drawn ({self._failure}). Run streamtrain report where"
                " Python can start another process."
            ) from self._failure
        output, errors = self._child.communicate(json.dumps(request).encode())
        if self._child.returncode:
            last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise ResourceError(
                f"the charts could not be drawn (exit {self._child.returncode}: {last[0]}). Run"
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
    request = json.load(sys.stdin)
    charts = {}
    for name, spec in request["charts"].items():
        svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
        charts[name] = svg, base64.b64encode(vl_convert.svg_to_png(svg, scale=2)).decode()
    bundle = vl_convert.javascript_bundle(_SNIPPET) if request["bundle"] else None
    json.dump({"charts": charts, "bundle": bundle}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # a normal exit would spend time tearing down the engine


if __name__ == "__main__":
    _serve()
