"""A real browser for tests: headless Chromium, spoken to over a pipe in its DevTools protocol."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT_SECONDS = 120.0
_ON_FDS_3_AND_4 = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, wanted in zip(ends, (3, 4)):
    os.dup2(end, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""


def chromium() -> str:
    """The path of a Chromium."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise RuntimeError(
            "the report is tested in a real browser, and there is none: apt-get install -y chromium"
        )
    return found


class Browser:
    """One page. Whatever it asks the network for is in `requests`."""

    def __init__(self, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        self.requests: list[str] = []
        self._numbers = itertools.count(1)
        self._profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        read_end, self._write = os.pipe()
        self._read, write_end = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        flags += [
            "--no-first-run",
            "--mute-audio",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            "--disable-extensions",
        ]
        program = [chromium(), *flags, f"--user-data-dir={self._profile.name}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ON_FDS_3_AND_4, str(read_end), str(write_end), *program],
            pass_fds=(read_end, write_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_end)
        os.close(write_end)
        self._buffer = b""
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.send(f"{domain}.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def open(self, path: Path) -> None:
        """Open a file from disk, and wait until it is there."""
        self.send("Page.navigate", url=path.resolve().as_uri())
        self._wait_for(lambda message: message.get("method") == "Page.loadEventFired")

    def run(self, expression: str) -> Any:
        """What a JavaScript expression gives; a promise is waited for."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path | None = None) -> np.ndarray:
        """The whole page as an RGB array."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = base64.b64decode(
            self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        )
        if path is not None:
            path.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def send(self, method: str, **params: object) -> dict[str, Any]:
        """Send a command of the protocol, and give its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None and not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._wait_for(lambda message: message.get("id") == number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _wait_for(self, wanted: Any) -> dict[str, Any]:
        end = time.monotonic() + TIMEOUT_SECONDS
        while True:
            head, found, rest = self._buffer.partition(b"\0")
            if found:
                self._buffer = rest
                message = json.loads(head)
                if message.get("method") == "Network.requestWillBeSent":
                    self.requests.append(message["params"]["request"]["url"])
                if wanted(message):
                    return message
                continue
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._read, 1 << 20) if ready else b""
            if not data:
                raise RuntimeError(f"{chromium()} gave no answer (exit code {self._process.poll()})")
            self._buffer += data
