"""A project folder for one test: source, store, settings and Dagster instance."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Project:
    """Runs the command line in a separate process on the project folder `home`."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        return self.home / "source"

    @property
    def store(self) -> Path:
        return self.home / "store"

    def write_settings(self, tree: dict[str, dict[str, object]]) -> None:
        """Write settings.yaml, by default without waiting for files to settle: a test's files are complete."""
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "settings.yaml").write_text(yaml.safe_dump({"ingestion": {"settle_seconds": 0}, **tree}))

    @property
    def variables(self) -> dict[str, str]:
        """The environment for this project, without the variables of another project."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("KWNEURO_", "DAGSTER_"))}
        return {**inherited, "KWNEURO_HOME": str(self.home), **self.environment}

    def command(self, *arguments: str, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kwneuro_assets.cli", *arguments],
            env=self.variables,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def stored_bytes(self) -> dict[str, bytes]:
        """Every file of the store by its path."""
        return {
            path.relative_to(self.store).as_posix(): path.read_bytes()
            for path in sorted(self.store.rglob("*"))
            if path.is_file()
        }
