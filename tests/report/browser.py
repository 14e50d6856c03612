"""A headless Chromium, driven over a pipe (`--remote-debugging-pipe`, the DevTools protocol).

No driver needs to be installed. One browser serves all tests, with a fresh tab per page; every
network request and every console message is recorded.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_QUIET = [
    f"--disable-{name}"
    for name in (
        "gpu",
        "quic",
        "background-networking",
        "component-update",
        "sync",
        "extensions",
        "dev-shm-usage",
    )
]
_SECONDS = 60.0


class Browser:
    """Send commands and wait for their answers; events in between go to the tab they belong to."""

    def __init__(self, profile: Path):
        commands, ours = os.pipe()
        answers, theirs = os.pipe()
        # descriptors 3 and 4 may be in use until the fork
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (commands, theirs)]

        def place() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        words = [
            PROGRAM,
            "--headless=new",
            "--no-sandbox",
            "--no-first-run",
            *_QUIET,
            f"--user-data-dir={profile}",
            "--remote-debugging-pipe",
        ]
        self._process = subprocess.Popen(
            words, preexec_fn=place, pass_fds=(3, 4), stderr=subprocess.DEVNULL
        )
        for fd in (commands, theirs, *high):
            os.close(fd)
        self._out, self._in, self._buffer, self._number = ours, answers, b"", 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the protocol.

        Raises RuntimeError where the browser refuses it.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") != self._number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + _SECONDS
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"the browser said nothing for {_SECONDS:.0f} s")
            if not (piece := os.read(self._in, 1 << 20)):
                raise RuntimeError("the browser ended")
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        with suppress(OSError, RuntimeError):
            self.call("Browser.close")
        for fd in (self._out, self._in):
            os.close(fd)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def page(
        self,
        file: Path,
        *,
        width: int = 1240,
        dark: bool = False,
        ready: str = "document.documentElement?.dataset.ready === 'true'",
    ) -> Iterator["Page"]:
        """Open the file in a tab and yield it as soon as `ready` holds there."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable", session)
            scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            self.call("Emulation.setEmulatedMedia", session, features=scheme)
            self.call(
                "Emulation.setDeviceMetricsOverride",
                session,
                width=width,
                height=900,
                deviceScaleFactor=1,
                mobile=False,
            )
            self.call("Page.navigate", session, url=file.as_uri())
            page.wait_for(ready)
            yield page
        finally:
            self.call("Target.closeTarget", targetId=target)
            self.events = [event for event in self.events if event.get("sessionId") != session]


class Page:
    """A tab."""

    def __init__(self, browser: Browser, session: str):
        self._browser, self._session = browser, session

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, which may be a promise."""
        parameters = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self._browser.call("Runtime.evaluate", self._session, **parameters)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"not true after {seconds:.0f} s: {expression}; the console said"
                    f" {self.complaints}"
                )
            time.sleep(0.05)

    @property
    def requests(self) -> list[str]:
        """The network requests, without the file itself and the data in it."""
        asked = (
            event["params"]["request"]["url"] for event in self._events("Network.requestWillBeSent")
        )
        return [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings of the page: thrown, logged, or the browser's own (a refused script,
        a policy that was broken).
        """
        thrown = [
            event["params"]["exceptionDetails"].get("text", "")
            for event in self._events("Runtime.exceptionThrown")
        ]
        said = [
            str(event["params"]["args"])
            for event in self._events("Runtime.consoleAPICalled")
            if event["params"]["type"] in ("error", "warning")
        ]
        logged = [
            event["params"]["entry"]["text"]
            for event in self._events("Log.entryAdded")
            if event["params"]["entry"]["level"] in ("error", "warning")
        ]
        return [*thrown, *said, *logged]

    def screenshot(self, height: int | None = None) -> bytes:
        """Return the whole page, or its first `height` pixels, as PNG."""
        width, whole = self.evaluate("[window.innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height or whole, "scale": 1}
        return base64.b64decode(
            self._browser.call(
                "Page.captureScreenshot", self._session, captureBeyondViewport=True, clip=clip
            )["data"]
        )

    def print_view(self) -> None:
        """Show the page with the styles of paper."""
        self._browser.call("Emulation.setEmulatedMedia", self._session, media="print")

    def pdf(self) -> bytes:
        """Return the page as it prints."""
        return base64.b64decode(self._browser.call("Page.printToPDF", self._session)["data"])

    def press(self, key: str) -> None:
        """Press and release one key."""
        codes = {"Tab": 9, "Enter": 13}
        for kind in ("rawKeyDown", "keyUp"):
            self._browser.call(
                "Input.dispatchKeyEvent",
                self._session,
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
            )
        if key == "Enter":
            self._browser.call("Input.dispatchKeyEvent", self._session, type="char", text="\r")

    def _events(self, method: str) -> list[dict[str, Any]]:
        return [
            event
            for event in self._browser.events
            if event.get("sessionId") == self._session and event.get("method") == method
        ]
