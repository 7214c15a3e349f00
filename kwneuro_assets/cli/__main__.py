"""`python -m kwneuro_assets.cli` is the command `kwneuro-assets`."""

from __future__ import annotations

from kwneuro_assets.cli.main import main

if __name__ == "__main__":
    main(prog_name="kwneuro-assets")
