"""A page in headless Chromium, told what to do over the DevTools protocol on two pipes: no driver, no library."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager

QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-extensions --hide-scrollbars --remote-debugging-pipe"
)
PATIENCE_S = 60


def found():
    """Where Chromium is, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def browser():
    """A running browser, whose pages `Page` opens; it ends with the block."""
    command_read, command_write = os.pipe()
    answer_read, answer_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        os.set_inheritable(command_read, True)
        os.set_inheritable(answer_write, True)
        joined = f'exec 3<&{command_read} 4>&{answer_write}; exec "$0" "$@"'  # the browser reads from 3 and writes to 4
        arguments = [found(), *QUIET.split(), f"--user-data-dir={profile}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(["bash", "-c", joined, *arguments], pass_fds=(command_read, answer_write), **quiet)
        os.close(command_read)
        os.close(answer_write)
        try:
            yield Connection(command_write, answer_read)
        finally:
            os.close(command_write)
            os.close(answer_read)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Connection:
    """Commands and events, each a JSON text that ends in a zero byte."""

    def __init__(self, write, read):
        self.write, self.read = write, read
        self.number, self.rest, self.events = 0, b"", []

    def send(self, method, session=None, **parameters):
        """The command's result; events that come before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.write, data) :]
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
        raise AssertionError(f"{method}: no answer")

    def receive(self):
        """The next message."""
        while b"\0" not in self.rest:
            more = os.read(self.read, 1 << 20)
            assert more, "the browser ended"
            self.rest += more
        text, _, self.rest = self.rest.partition(b"\0")
        answer = json.loads(text)
        if "id" not in answer:
            self.events.append(answer)
        return answer


class Page:
    """One page of a file, loaded; `console` and `requests` are what it wrote and asked for since."""

    def __init__(self, connection, path, *, width=1200, height=900, scheme="light", media="screen", script=True):
        self.connection = connection
        target = connection.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = connection.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.target = target
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.send("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Emulation.setScriptExecutionDisabled", value=not script)
        self.send("Page.navigate", url=f"file://{path}")
        self.until("document.readyState === 'complete'")

    def send(self, method, **parameters):
        return self.connection.send(method, self.session, **parameters)

    def value(self, expression):
        """What the expression (a promise is waited for) comes to in the page, as JSON gives it."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression):
        """Waits until the expression holds."""
        end = time.monotonic() + PATIENCE_S
        while not self.value(expression):
            assert time.monotonic() < end, f"never came to hold: {expression}"
            time.sleep(0.02)

    def said(self, *methods):
        """The events of those names of this page."""
        return [one["params"] for one in self.connection.events if one["method"] in methods and one.get("sessionId") == self.session]

    @property
    def complaints(self):
        """Everything that went wrong: uncaught errors, what the console was told of errors, what the policy blocked."""
        told = [one for one in self.said("Runtime.consoleAPICalled") if one["type"] in ("error", "warning", "assert")]
        return told + self.said("Runtime.exceptionThrown", "Log.entryAdded")

    @property
    def requests(self):
        """The addresses that were asked for."""
        return [one["request"]["url"] for one in self.said("Network.requestWillBeSent")]

    def close(self):
        self.connection.send("Target.closeTarget", targetId=self.target)
