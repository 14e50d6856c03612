"""Draw charts in a separate process.

The JavaScript engine behind the drawing needs much memory and aborts when it does not get it. In a
separate process, such an abort does not lose the result of a run under a memory limit, and the
memory does not count towards the run's peak.
"""

import base64
import json
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import vl_convert

from streamtrain.errors import ResourceError


def draw(charts: Mapping[str, Any]) -> dict[str, tuple[str, bytes]]:
    """Return SVG text and PNG bytes of complete Vega-Lite specs, by name.

    Needs neither a browser nor the network. Raises ResourceError where the process fails.
    """
    drawn = _ask({"charts": charts})
    return {name: (svg, base64.b64decode(png)) for name, (svg, png) in drawn.items()}


@lru_cache(maxsize=1)
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that sets `window.vegaEmbed`.

    It includes the expression interpreter, which needs no `eval`. Raises ResourceError where the
    process fails.
    """
    return _ask({"bundle": True}).replace("</script", "<\\/script")


def _ask(request: Mapping[str, Any]) -> Any:
    try:
        child = subprocess.run(
            [sys.executable, "-m", "streamtrain.report.render"],
            input=json.dumps(request).encode(),
            capture_output=True,
        )
    except OSError as error:
        raise ResourceError(
            f"the charts could not be drawn ({error}). Where Python can start another process,"
            " streamtrain report draws them."
        ) from error
    if child.returncode:
        last = child.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise ResourceError(
            f"the charts could not be drawn (exit {child.returncode}: {last[0]}). With more memory,"
            " streamtrain report draws them."
        )
    return json.loads(child.stdout)


def _answer(request: Mapping[str, Any]) -> Any:
    if "bundle" in request:
        return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    answer = {}
    for name, spec in request["charts"].items():
        svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
        answer[name] = svg, base64.b64encode(vl_convert.svg_to_png(svg, scale=2)).decode()
    return answer


if __name__ == "__main__":
    json.dump(_answer(json.load(sys.stdin)), sys.stdout)
