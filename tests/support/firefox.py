"""Drives an installed Firefox by its own protocol, Marionette: Playwright drives only builds of its own."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

FIREFOX = shutil.which("firefox") or shutil.which("firefox-esr")
START_S = 60.0
PREFERENCES = {
    "app.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.proxy.type": 1,  # to nowhere: a page that asks for anything outside gets an error
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "ui.prefersReducedMotion": 1,
}


class Firefox:
    """A window of a Firefox without a screen."""

    def __init__(self, port: int) -> None:
        self._socket = self._connect(port)
        self._buffer = b""
        self._sent = 0
        self._read()  # its greeting
        self._call("WebDriver:NewSession", {"capabilities": {"alwaysMatch": {"acceptInsecureCerts": True}}})

    @staticmethod
    def _connect(port: int) -> socket.socket:
        until = time.monotonic() + START_S
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=START_S)
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def _read(self) -> Any:
        while b":" not in self._buffer:
            self._buffer += self._socket.recv(65536)
        length, _, self._buffer = self._buffer.partition(b":")
        while len(self._buffer) < int(length):
            self._buffer += self._socket.recv(1 << 20)
        text, self._buffer = self._buffer[: int(length)], self._buffer[int(length) :]
        return json.loads(text)

    def _call(self, command: str, values: dict[str, Any]) -> Any:
        self._sent += 1
        message = json.dumps([0, self._sent, command, values]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self._read()
        if error:
            raise RuntimeError(f"{command}: {error['error']}: {error['message']}")
        return result.get("value", result) if isinstance(result, dict) else result

    def close(self) -> None:
        """End the conversation."""
        self._socket.close()

    def size(self, width: int, height: int) -> None:
        """Set the size of the window."""
        self._call("WebDriver:SetWindowRect", {"width": width, "height": height})

    def open(self, address: str) -> None:
        """Open an address and wait until it is loaded."""
        self._call("WebDriver:Navigate", {"url": address})

    def run(self, script: str, *values: object) -> Any:
        """Run a script beside those of the page, as the body of a function, and return its result."""
        return self._call("WebDriver:ExecuteScript", {"script": script, "args": list(values)})

    def press(self, *keys: str) -> None:
        """Press and release keys, one after the other."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("WebDriver:PerformActions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def screenshot(self) -> npt.NDArray[np.uint8]:
        """Return what the window shows, (H, W, 3) BGR."""
        data = base64.b64decode(self._call("WebDriver:TakeScreenshot", {"full": False}))
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        return image.astype(np.uint8)


@contextmanager
def firefox(folder: Path) -> Iterator[Firefox]:
    """Start a Firefox with a profile of its own in a folder, and end it."""
    assert FIREFOX is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
    lines.append(f'user_pref("marionette.port", {port});')
    (folder / "user.js").write_text("\n".join(lines), encoding="utf-8")
    command = [FIREFOX, "--headless", "--marionette", "--no-remote", "--profile", str(folder), "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        window = Firefox(port)
        yield window
        window.close()
    finally:
        process.terminate()
        process.wait(timeout=30)
