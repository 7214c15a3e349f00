"""The project folder, with settings, source, store and Dagster instance.

Commands pass the parts of a project in environment variables, so that Dagster's daemon, code server and runs use the
same ones. Variables that are set take precedence; the others are set from the folder.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from kwneuro_assets.settings import PipelineSettings, load_settings

DEFAULT_HOME = "data"


def use_project_folder(home: Path | None = None) -> PipelineSettings:
    """Set the environment variables of the project in `home` and return its settings.

    `home` defaults to `KWNEURO_HOME`, then to `data`. `home/settings.yaml` is read if it exists. `home/source` and
    `home/store` are used unless the settings or the environment name others. The Dagster instance in `home/dagster` is
    created with the dagster.yaml of this package. Raises SettingsError if the settings are not valid.
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
