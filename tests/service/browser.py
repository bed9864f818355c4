"""A real Chromium, driven over its DevTools protocol: enough of it to use a page as a person would."""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.service.running import Running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--remote-debugging-port=0")
_PATIENCE_S = 120


class Page:
    """One tab.

    Args:
        socket: to the tab's DevTools.

    Attributes:
        events: everything the tab reported.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.events: list[dict[str, Any]] = []
        self._socket = socket
        self._last = 0
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Run a DevTools method and return its result."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=_PATIENCE_S))
            if message.get("id") == self._last:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)

    def run(self, script: str) -> Any:
        """Evaluate JavaScript and return its value."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until JavaScript is true; the browser looks at every frame."""
        script = (
            "new Promise((done, fail) => { const end = performance.now() + %d; const look = () => "
            "(%s) ? done() : performance.now() > end ? fail('never: ' + %s) : setTimeout(look, 20); look(); })"
        )
        self.run(script % (_PATIENCE_S * 900, condition, json.dumps(condition)))

    def open(self, url: str) -> None:
        """Go to an address and wait until it has loaded."""
        self.call("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def choose_files(self, selector: str, paths: list[Path]) -> None:
        """Choose files as in the dialogue."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        handle = found["result"]["objectId"]
        self.call("DOM.setFileInputFiles", files=[str(path) for path in paths], objectId=handle)

    def press(self, key: str, code: int) -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def complaints(self) -> list[str]:
        """Return exceptions, console errors and violations of the content security policy so far."""
        self.run("1")
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(event["params"]["entry"]["text"])
        return found


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Run a browser with one empty tab."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_address(profile, process), max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(30)


def _address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """Return the address of the first tab's DevTools, as soon as the browser has written its port."""
    port_file, end = profile / "DevToolsActivePort", time.monotonic() + _PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        if port_file.exists() and "\n" in (text := port_file.read_text()):
            with urllib.request.urlopen(f"http://127.0.0.1:{text.split()[0]}/json/list") as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise AssertionError("Chromium does not start")


def opened(page: Page, server: Running) -> Page:
    """Return the tab with the page of a server freshly loaded and its events cleared."""
    page.open("about:blank")
    page.events.clear()
    page.open(f"{server.url}/")
    page.until("document.getElementById('model').textContent")
    return page


def desk(page: Page) -> None:
    """Set the tab back to a large light screen without touch."""
    for name in ("setDeviceMetricsOverride", "setTouchEmulationEnabled", "setEmulatedMedia"):
        restore = {"width": 0, "height": 0, "deviceScaleFactor": 0, "mobile": False, "enabled": False, "features": []}
        page.call(f"Emulation.{name}", **restore)
