"""The demo's networks: small networks of TractSeg's own architecture, trained on synthetic heads only."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent  # with TractSeg's file names
DEMO_NOTE = "demo network: synthetic anatomy only"  # wherever a result of these networks is shown
