"""`kwneuro-assets ui` on a project: web server, daemon and code server, which a test may kill at any moment."""

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

from kwneuro_assets.automation import SENSOR
from kwneuro_assets_tests.project import Project

START_SECONDS = 120  # on a busy machine


class UiServer:
    """All processes of the UI of one project; none of them is left when the `with` block ends."""

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
        """Start it, and wait until it answers."""
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
        """Kill all of it at once, runs included; nothing has time to say goodbye."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process_id in self._processes():  # what has left the group
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _processes(self) -> list[int]:
        """All that were started for this project, whoever has adopted them since."""
        mark = f"KWNEURO_HOME={self._project.home}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # gone, or another user's
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def ask(self, query: str, **variables: object) -> Any:
        """What the GraphQL server, which the UI asks too, answers."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.address}/graphql", body, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            told = json.load(answer)
        assert "errors" not in told, told
        return told["data"]

    def _selector(self) -> dict[str, str]:
        """Where the definitions are found."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            told = self.ask(
                "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
            )
            nodes = told["repositoriesOrError"].get("nodes", [])
            if nodes:
                return {"repositoryName": nodes[0]["name"], "repositoryLocationName": nodes[0]["location"]["name"]}
            time.sleep(0.5)
        raise AssertionError("the definitions were not loaded")

    def switch_sensor_on(self, name: str = SENSOR) -> None:
        told = self.ask(
            """mutation ($selector: SensorSelector!) {
                startSensor(sensorSelector: $selector) { __typename ... on PythonError { message } }
            }""",
            selector={**self._selector(), "sensorName": name},
        )
        assert told["startSensor"]["__typename"] == "Sensor", told

    def launch(self, job: str, config: dict[str, object] | None = None) -> str:
        """Start a run of a job, as the Launchpad does; its id."""
        told = self.ask(
            """mutation ($execution: ExecutionParams!) {
                launchRun(executionParams: $execution) {
                    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
                }
            }""",
            execution={"selector": {**self._selector(), "jobName": job}, "runConfigData": config or {}},
        )
        return str(told["launchRun"]["run"]["runId"])

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
