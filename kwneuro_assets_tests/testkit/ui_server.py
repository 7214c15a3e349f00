"""`kwneuro-assets ui` on a project: web server, daemon and code server. A test can kill them at any moment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from kwneuro_assets.automation.stale_sensor import SENSOR
from kwneuro_assets_tests.testkit.project import Project

START_SECONDS = 120  # on a busy machine


class UiServer:
    """All processes of the UI of one project; the context manager kills them at its end."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._log = (project.home / "ui.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def __enter__(self) -> UiServer:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._log.close()

    def start(self) -> None:
        """Start the UI and wait until it responds."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kwneuro_assets.cli", "ui", "--port", str(port)],
            env=self._project.variables, cwd=self._project.home, stdout=self._log, stderr=self._log,
            start_new_session=True,
        )  # fmt: skip
        self._wait()

    def kill(self) -> None:
        """Kill all processes at once with SIGKILL, runs included."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process_id in self._processes():  # processes in other groups
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def terminate(self, seconds: float) -> list[int]:
        """Send SIGTERM to the command; returns the processes that remain after at most `seconds`."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(seconds)
        deadline = time.monotonic() + seconds
        while (remaining := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return remaining

    def _processes(self) -> list[int]:
        """All processes that were started for this project, including those with another parent now."""
        mark = f"KWNEURO_HOME={self._project.home}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # ended, or of another user
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def ask(self, query: str, **variables: object) -> Any:
        """The response of the GraphQL server, which the UI uses, too."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.address}/graphql", body, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            response = json.load(answer)
        assert "errors" not in response, response
        return response["data"]

    def _selector(self) -> dict[str, str]:
        """The selector of the code location."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            response = self.ask(
                "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
            )
            nodes = response["repositoriesOrError"].get("nodes", [])
            if nodes:
                return {"repositoryName": nodes[0]["name"], "repositoryLocationName": nodes[0]["location"]["name"]}
            time.sleep(0.5)
        raise AssertionError("the definitions were not loaded")

    def switch_sensor_on(self, name: str = SENSOR) -> None:
        response = self.ask(
            """mutation ($selector: SensorSelector!) {
                startSensor(sensorSelector: $selector) { __typename ... on PythonError { message } }
            }""",
            selector={**self._selector(), "sensorName": name},
        )
        assert response["startSensor"]["__typename"] == "Sensor", response

    def launch(self, job: str, config: dict[str, object] | None = None) -> str:
        """Start a run of a job, as the Launchpad does; returns its id."""
        response = self.ask(
            """mutation ($execution: ExecutionParams!) {
                launchRun(executionParams: $execution) {
                    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
                }
            }""",
            execution={"selector": {**self._selector(), "jobName": job}, "runConfigData": config or {}},
        )
        return str(response["launchRun"]["run"]["runId"])

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.address}/server_info", timeout=5)
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.5)
        log = (self._project.home / "ui.log").read_text()
        raise AssertionError(f"the UI did not start:\n{log[-3000:]}")
