"""Where a project's files lie: one folder with its settings, source, store and Dagster instance.

The environment is the interface: what is set there stands, what is not is filled in from the folder, so that
`dagster dev` and the runs it starts see what the command line sees.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from kwneuro_assets.settings import PipelineSettings, load_settings

DEFAULT_HOME = "data"


def settle(home: Path | None = None) -> PipelineSettings:
    """Complete the environment from the folder `home` (default: KWNEURO_HOME, then `data`); return the settings.

    `home/settings.yaml` is used where it exists, `home/source` and `home/store` where neither it nor the
    environment names others, `home/dagster` for the instance, created with this package's dagster.yaml.
    Raises SettingsError.
    """
    folder = (home or Path(os.environ.get("KWNEURO_HOME") or DEFAULT_HOME)).expanduser().absolute()
    if not os.environ.get("KWNEURO_SETTINGS") and (folder / "settings.yaml").is_file():
        os.environ["KWNEURO_SETTINGS"] = str(folder / "settings.yaml")
    settings = load_settings()
    for section, variable in (("source", "KWNEURO_SOURCE"), ("store", "KWNEURO_STORE")):
        if "url" not in getattr(settings, section).model_fields_set:
            os.environ[variable] = str(folder / section)
    instance = Path(os.environ.setdefault("DAGSTER_HOME", str(folder / "dagster")))
    if not (instance / "dagster.yaml").exists():
        instance.mkdir(parents=True, exist_ok=True)
        (instance / "dagster.yaml").write_bytes(files("kwneuro_assets").joinpath("dagster.yaml").read_bytes())
    return load_settings()
