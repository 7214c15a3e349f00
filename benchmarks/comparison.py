"""Every step, ours and its peers', one process after the other: what the tables are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import chain
from benchmarks.peers import DIPY_DENOISING, PEERS, Setting
from benchmarks.process import Measured, measure

TITLES = {"denoise": "read + denoise + write"}
OURS = "ours"

Tell = Callable[[str], object]


def warmed_up(setting: Setting, steps: Iterable[str]) -> dict[str, Any]:
    """What is done once on a machine and not timed: our kernels are compiled, kwneuro's AMICO makes its tables."""
    told: dict[str, Any] = {"ours": _ours("warm-up", setting).to_json()}
    if "chain" in steps and setting.kwneuro:
        told["kwneuro"] = measure(
            "benchmarks.kwneuro_peer", ["warm-up"], setting.threads, python=setting.kwneuro
        ).to_json()
    return told


def compared(step: str, setting: Setting, tell: Tell) -> dict[str, Any]:
    """The figures of a step, and of each peer with its differences from ours."""
    tell(f"{step}: ours")
    ours = chain.measured(setting) if step == "chain" else _ours(step, setting)
    row: dict[str, Any] = {"step": TITLES.get(step, step), **ours.to_json(), "peers": []}
    for peer in PEERS[step]:
        tell(f"{step}: {peer.name}")
        theirs = peer.measured(step, setting)
        theirs = chain.whole(theirs) if step == "chain" else theirs
        told: dict[str, Any] = {"peer": peer.name, **theirs.to_json()}
        if not ours.problem and not theirs.problem:
            told["ratio"] = round(theirs.seconds / ours.seconds, 3) if ours.seconds else None
            told["differences"] = [] if step == "chain" else _differences(step, setting, peer.name)
        row["peers"].append(told)
    return row


def accuracy(setting: Setting) -> dict[str, Any]:
    """How good the denoising is; after its step, so that a peer's result is there, too."""
    dataset = setting.dataset
    dipy = setting.out("denoise", DIPY_DENOISING.name)
    found = measure("benchmarks.accuracy", [dataset.folder, dataset.subject, dipy], setting.threads)
    return {"problem": found.problem} if found.problem else dict(found.details)


def _ours(step: str, setting: Setting) -> Measured:
    words = [step, setting.dataset.folder, setting.dataset.subject, setting.out(step, OURS)]
    return measure("benchmarks.steps", words, setting.threads)


def _differences(step: str, setting: Setting, peer: str) -> list[dict[str, Any]]:
    words = [step, setting.dataset.folder, setting.dataset.subject, setting.out(step, OURS), setting.out(step, peer)]
    found = measure("benchmarks.differences", words, setting.threads)
    if found.problem:
        return [{"quantity": found.problem}]
    return list(found.details["differences"])
