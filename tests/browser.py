"""A real browser, driven through the DevTools protocol of Chromium and its relatives."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from wanted import library

websocket = library("websocket")  # websocket-client, which comes with JupyterLab

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
KEYS = {
    "Tab": 9,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    " ": 32,
}


def start_or_skip(folder):
    """(process, address) of a browser without a window, whose profile is `folder`. Skips the test where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)}")
    options = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--no-first-run"]
    options += ["--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    options += ["--no-sandbox"] * (hasattr(os, "geteuid") and os.geteuid() == 0)  # root has to do without
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    port = Path(folder) / "DevToolsActivePort"
    for _ in range(600):
        lines = port.read_text().splitlines() if port.exists() else []
        if len(lines) == 2:
            return process, f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    pytest.skip(f"{program} is installed, but does not start here")


class Page:
    """A page in a browser. requests: the address of everything that it asked for. errors: what its scripts complained of."""

    def __init__(self, address):
        self.socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self.number, self.session, self.requests, self.errors = 0, None, [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.target = target
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def close(self):
        self.call("Target.closeTarget", targetId=self.target)
        self.socket.close()

    def call(self, method, **parameters):
        """What a method of the protocol returns: https://chromedevtools.github.io/devtools-protocol/."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while True:
            answer = json.loads(self.socket.recv())
            self._notice(answer.get("method"), answer.get("params", {}))
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def _notice(self, event, about):
        if event == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(about["exceptionDetails"])
        elif event == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"]["text"])

    def run(self, code):
        """The value of an expression, or of what it promises."""
        found = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, (code, found)
        return found["result"].get("value")

    def wait(self, code):
        """The value of an expression as soon as it is true."""
        for _ in range(300):
            if value := self.run(code):
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {code}")

    def open(self, path):
        self.requests.clear()
        self.errors.clear()
        self.call("Page.navigate", url=Path(path).as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def prefer(self, scheme, width=1000):
        """What the reader prefers, "light" or "dark", and the width of the window in pixels."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )

    def mouse(self, x, y, click=False):
        """Move the mouse to a place in the window, in pixels."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for event in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=event, x=x, y=y, button="left", clickCount=1)

    def tap(self, x, y):
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, name, control=False, shift=False):
        about = {
            "key": name,
            "code": name,
            "windowsVirtualKeyCode": KEYS[name],
            "modifiers": 2 * control + 8 * shift,
        }
        text = {"text": name} if name == " " else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def screenshot(self):
        """The window as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])
