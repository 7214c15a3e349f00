"""Prints results as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

BUSY = 0.25  # load average per core above which other processes affect the times

console = Console(highlight=False, markup=False)
if not console.is_terminal:
    console.width = 200  # a log or a pipe has no width; the default of 80 is too narrow for the tables

Row = Mapping[str, Any]


def print_machine(machine: Row, dataset: Row) -> None:
    print_environment(machine)
    size = " x ".join(map(str, dataset["shape"]))
    console.print(
        f"{dataset['source']}, {dataset['subject']}: {size}; models fitted in {dataset['voxels_fitted']} of "
        f"{dataset['voxels_of_brain']} voxels of the brain"
    )


def print_environment(machine: Row) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads per process; {versions}")
    if machine["load"] > BUSY * machine["cores"]:
        console.print(
            f"the machine is busy (load average {machine['load']}), so seconds are too long; --json also contains CPU "
            "seconds"
        )


def print_warm_up(warm_up: Mapping[str, Row]) -> None:
    """Print the times of one-time work, which are not in the table."""
    ours = warm_up["ours"]
    if "problem" in ours:
        console.print(f"warm-up: {ours['problem']}")
    else:
        calls = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in ours["first_calls"].items())
        console.print(f"first calls on a few voxels, with compilation if necessary (not in the table): {calls}")
    if "kwneuro" in warm_up:
        result = warm_up["kwneuro"]
        what = result.get("problem") or f"{result['seconds']:.1f} s"
        console.print(f"kwneuro's amico.setup(), which writes AMICO's tables (not in the table): {what}")


def print_comparison(rows: Sequence[Row]) -> None:
    """Print one row per step and peer, and one for each further quantity that is compared."""
    table = new_table(
        "step", "seconds", "peak MB", "peer", "seconds", "peak MB", "peer / ours", "difference of", "mean", "99 %",
        "largest", right=(1, 2, 4, 5, 6, 8, 9, 10),
    )  # fmt: skip
    for row in rows:
        own = [row["step"], *_seconds_and_memory(row)]
        for peer in row["peers"] or [{}]:
            ratio = peer.get("ratio")
            theirs = [
                peer.get("peer", ""),
                *(_seconds_and_memory(peer) if peer else ["", ""]),
                f"{ratio:.1f}" if ratio else "",
            ]
            for difference in peer.get("differences") or [{}]:
                table.add_row(*own, *theirs, *_difference(difference))
                own, theirs = [""] * 3, [""] * 4
    console.print(table)
    for row in rows:
        for name, result in [("ours", row), *((peer["peer"], peer) for peer in row["peers"])]:
            if result.get("problem", "not installed") != "not installed":
                console.print(f"{row['step']}, {name}: {result['problem']}")


def print_accuracy(found: Row) -> None:
    """Print the accuracy of denoising against the exact fit and the ground truth."""
    if "problem" in found:
        console.print(f"accuracy of the denoising: {found['problem']}")
        return
    oracle = found["oracle"]
    console.print(
        "denoising against scikit-learn's leave-one-out fit, relative to the root mean square signal: "
        f"mean {oracle['mean']:.1e}, largest {oracle['largest']:.1e}"
    )
    if "rms_error" not in found:
        return
    names = sorted({name for bias in found["bias"].values() for name in bias}, key=("md", "fa", "ndi").index)
    units = {"md": "bias of MD, mm^2/s", "fa": "bias of FA", "ndi": "bias of NDI"}
    titles = ["against the ground truth", "RMS error in the brain", "without b=0", *(units[name] for name in names)]
    table = new_table(*titles, right=range(1, len(titles)))
    for name, error in found["rms_error"].items():
        weighted = f"{found['rms_error_weighted'][name]:.2f}"
        table.add_row(name, f"{error:.2f}", weighted, *(f"{found['bias'][name][what]:+.2e}" for what in names))
    console.print(table)


def print_parts(row: Row) -> None:
    """Print the parts of the chain's time."""
    if "parts" not in row:
        return
    table = new_table("the chain's time", "seconds", "fraction", right=(1, 2))
    for what, seconds in row["parts"].items():
        table.add_row(what, f"{seconds:.2f}", f"{seconds / row['seconds']:.0%}")
    console.print(table)
    console.print("computing: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in row["steps"].items()))


def print_subject(ours: Row, kwneuro: Row | None) -> None:
    """Print the steps of a subject, with their fraction of the time, and kwneuro's time of the same steps."""
    for name, result in (("ours", ours), ("kwneuro", kwneuro or {})):
        for step in (result, *result.get("steps", ())):
            if "problem" in step:
                console.print(f"{name}, {step.get('step', 'all steps')}: {step['problem']}")
    theirs = {step["step"]: step for step in (kwneuro or {}).get("steps", ()) if "seconds" in step}
    table = new_table(
        "step", "seconds", "fraction", "peak MB", "kwneuro", "its peak MB", "kwneuro / ours", right=range(1, 7)
    )  # fmt: skip
    total = {**ours, "step": "total"}
    if kwneuro and "seconds" in kwneuro:
        theirs["total"] = kwneuro
    for step in (*ours.get("steps", ()), *([total] if "seconds" in ours else ())):
        peer = theirs.get(step["step"], {})
        ratio = f"{peer['seconds'] / step['seconds']:.1f}" if peer and step["seconds"] else ""
        table.add_row(
            step["step"],
            f"{step['seconds']:.1f}",
            f"{step['seconds'] / ours['seconds']:.0%}",
            str(step.get("peak_mb", "")),
            f"{peer['seconds']:.1f}" if peer else "",
            str(peer.get("peak_mb", "")),
            ratio,
        )
    console.print(table)


def print_growth(rows: Sequence[Row]) -> None:
    """Print a table for each step and variable; seconds are also relative to the last row, the full dataset."""
    for step, grows in dict.fromkeys((row["step"], row["grows"]) for row in rows):
        points = [row for row in rows if (row["step"], row["grows"]) == (step, grows)]
        table = new_table(grows, "seconds", "relative to last", "peak MB", title=f"{step}: {grows}", right=range(4))
        last = points[-1].get("seconds")
        for point in points:
            if "problem" in point:
                table.add_row(str(point["amount"]), "none", "", "")
                continue
            relative = f"{point['seconds'] / last:.2f}" if last else ""
            table.add_row(str(point["amount"]), f"{point['seconds']:.2f}", relative, str(point["peak_mb"]))
        console.print(table)
        for point in points:
            if "problem" in point:
                console.print(f"{step}, {point['amount']} of the {grows}: {point['problem']}")


def new_table(*titles: str, right: Sequence[int] = (), title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for index, name in enumerate(titles):
        table.add_column(name, justify="right" if index in right else "left")
    return table


def _seconds_and_memory(row: Row) -> list[str]:
    if "problem" in row:
        return [row["problem"] if row["problem"] == "not installed" else "none, see below", ""]
    return [f"{row['seconds']:.2f}", str(row["peak_mb"])]


def _difference(difference: Row) -> list[str]:
    values = [difference.get(name) for name in ("mean", "percentile_99", "largest")]
    return [difference.get("quantity", ""), *("" if value is None else f"{value:.2g}" for value in values)]
