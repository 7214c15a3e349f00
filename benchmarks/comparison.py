"""Measures every step and its peers, each in a new process: the data of the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import chain
from benchmarks.peers import DIPY_DENOISING, PEERS, Setting
from benchmarks.process import Measured, measure

TITLES = {"denoise": "read + denoise + write"}
OURS = "ours"

OnMessage = Callable[[str], object]


def warmed_up(setting: Setting, steps: Iterable[str]) -> dict[str, Any]:
    """One-time work that is not compared: compiling our kernels, writing AMICO's tables for kwneuro."""
    result: dict[str, Any] = {"ours": _ours("warm-up", setting).to_json()}
    if "chain" in steps and setting.kwneuro:
        result["kwneuro"] = measure(
            "benchmarks.kwneuro_peer", ["warm-up"], setting.threads, python=setting.kwneuro
        ).to_json()
    return result


def compared(step: str, setting: Setting, on_message: OnMessage) -> dict[str, Any]:
    """The results of a step, and of each peer with its differences from ours."""
    on_message(f"{step}: ours")
    ours = chain.measured(setting) if step == "chain" else _ours(step, setting)
    row: dict[str, Any] = {"step": TITLES.get(step, step), **ours.to_json(), "peers": []}
    for peer in PEERS[step]:
        on_message(f"{step}: {peer.name}")
        theirs = peer.measured(step, setting)
        theirs = chain.from_start_to_end(theirs) if step == "chain" else theirs
        entry: dict[str, Any] = {"peer": peer.name, **theirs.to_json()}
        if not ours.problem and not theirs.problem:
            entry["ratio"] = round(theirs.seconds / ours.seconds, 3) if ours.seconds else None
            entry["differences"] = [] if step == "chain" else _differences(step, setting, peer.name)
        row["peers"].append(entry)
    return row


def accuracy(setting: Setting) -> dict[str, Any]:
    """The accuracy of denoising; call it after the step, when the peer's result exists, too."""
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
