"""A headless Chromium driven over the DevTools protocol, for tests and benchmarks of pages on disk."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


# Text, the nearest opaque background and their ratio (WCAG 2.2), of every text in view that is no drawing's.
CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c <= 10.31475 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  let least = 21;
  for (const node of document.querySelectorAll('body *')) {
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
    if (!node.getClientRects().length || node.closest('svg')) continue;
    let behind = node;
    let back = [0, 0, 0, 0];
    while (behind && !(back.length === 3 || back[3] === 1)) {
      back = parse(getComputedStyle(behind).backgroundColor);
      behind = behind.parentElement;
    }
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(back)].sort((x, y) => y - x);
    least = Math.min(least, (a + 0.05) / (b + 0.05));
  }
  return least;
})()"""


class Browser:
    """One page of a headless Chromium that may load nothing but files; use it as a context manager.

    ``problems`` collects console errors and warnings, uncaught exceptions and failed requests.
    """

    def __init__(self, width: int = 1400, height: int = 900) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._size = width, height
        self._number = 0

    def __enter__(self) -> Browser:
        self._loop = asyncio.new_event_loop()
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [
                executable() or NAMES[0], "--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio",
                "--remote-debugging-port=0", f"--user-data-dir={self._folder.name}/profile",
                f"--window-size={self._size[0]},{self._size[1]}", "--no-first-run",
                "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking",
                "--disable-dev-shm-usage", "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self._loop.run_until_complete(self._connect())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_session"):
            self._loop.run_until_complete(self._session.close())
        self._process.terminate()
        self._process.wait(20)
        self._loop.close()
        self._folder.cleanup()

    async def _connect(self, patience: float = 60) -> None:
        import aiohttp

        port_file, end = Path(self._folder.name, "profile", "DevToolsActivePort"), time.monotonic() + patience
        while not (port_file.is_file() and port_file.read_text().strip()):
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError("Chromium did not open its DevTools port")
            await asyncio.sleep(0.1)
        port = port_file.read_text().split()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [page for page in await answer.json() if page["type"] == "page"]
        self._socket = await self._session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
        for domain in ("Page", "Runtime", "Log", "Network", "Performance"):
            await self._send(f"{domain}.enable")

    async def _send(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        mine = self._number
        await self._socket.send_json({"id": mine, "method": method, "params": params})
        while True:
            message = json.loads((await asyncio.wait_for(self._socket.receive(), 120)).data)
            if message.get("id") == mine:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"])[:2000])
        elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(json.dumps(params["args"])[:2000])
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(json.dumps(params["entry"])[:2000])
        elif message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result."""
        return self._loop.run_until_complete(self._send(method, **params))

    def open(self, address: str) -> None:
        """Load an address."""
        self.send("Page.navigate", url=address)

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript (promises are waited for) and return its value."""
        found = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {json.dumps(found['exceptionDetails'])[:2000]}")
        return found["result"].get("value")

    def wait(self, expression: str, patience: float = 60) -> Any:
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + patience
        while True:
            if found := self.run(expression):
                return found
            if time.monotonic() > end:
                raise AssertionError(f"{expression} stayed false for {patience} s; problems: {self.problems}")
            time.sleep(0.05)

    def least_contrast(self) -> float:
        """Return the lowest ratio of a text in view to its background; AA asks for 4.5."""
        return self.run(CONTRAST)

    def save_into(self, folder: str | Path) -> None:
        """Put what the page offers for download into ``folder``, without a question."""
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def key(self, name: str) -> None:
        """Press and release a key by its name, Tab or ArrowDown."""
        codes = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36, "ArrowUp": 38, "ArrowDown": 40}
        text = {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            pressed = text if kind == "keyDown" else {}
            pressed |= {"key": name, "code": name, "windowsVirtualKeyCode": codes[name]}
            self.send("Input.dispatchKeyEvent", type=kind, **pressed)

    def screenshot(self, path: str | Path, whole: bool = False) -> None:
        """Write a PNG of what is in view, or of the whole page."""
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(found["data"]))
