"""The figures as tables for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

BUSY = 0.25  # load average for each core above which what is measured shares it

console = Console(highlight=False, markup=False)
if not console.is_terminal:
    console.width = 200  # a log or a pipe has no width of its own; 80 would break the tables

Row = Mapping[str, Any]


def print_machine(machine: Row, dataset: Row) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads for each; {versions}")
    if machine["load"] > BUSY * machine["cores"]:
        console.print(
            f"others work on this machine (load average {machine['load']}): seconds are longer than they need be; "
            "--json tells those of the processors, too"
        )
    size = " x ".join(map(str, dataset["shape"]))
    console.print(
        f"{dataset['source']}, {dataset['subject']}: {size}; models fitted in {dataset['voxels_fitted']} of "
        f"{dataset['voxels_of_brain']} voxels of the brain"
    )


def print_warm_up(warm_up: Mapping[str, Row]) -> None:
    """What was done once and is not in the table."""
    ours = warm_up["ours"]
    if "problem" in ours:
        console.print(f"warm-up: {ours['problem']}")
    else:
        calls = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in ours["first_calls"].items())
        console.print(f"first calls on a few voxels, compilation included where it is due (not in the table): {calls}")
    if "kwneuro" in warm_up:
        told = warm_up["kwneuro"]
        what = told.get("problem") or f"{told['seconds']:.1f} s"
        console.print(f"kwneuro's amico.setup(), whose tables AMICO keeps (not in the table): {what}")


def print_comparison(rows: Sequence[Row]) -> None:
    """One line for each step and peer, and one for each further quantity that both give."""
    table = new_table(
        "step", "seconds", "peak MB", "peer", "seconds", "peak MB", "peer / ours", "difference of", "mean", "99 %",
        "largest", right=(1, 2, 4, 5, 6, 8, 9, 10),
    )  # fmt: skip
    for row in rows:
        own = [row["step"], *_figures(row)]
        for peer in row["peers"] or [{}]:
            ratio = peer.get("ratio")
            theirs = [peer.get("peer", ""), *(_figures(peer) if peer else ["", ""]), f"{ratio:.1f}" if ratio else ""]
            for difference in peer.get("differences") or [{}]:
                table.add_row(*own, *theirs, *_difference(difference))
                own, theirs = [""] * 3, [""] * 4
    console.print(table)
    for row in rows:
        for who, told in [("ours", row), *((peer["peer"], peer) for peer in row["peers"])]:
            if told.get("problem", "not installed") != "not installed":
                console.print(f"{row['step']}, {who}: {told['problem']}")


def print_accuracy(found: Row) -> None:
    """Denoising against the exact fit and against the truth."""
    if "problem" in found:
        console.print(f"accuracy of the denoising: {found['problem']}")
        return
    oracle = found["oracle"]
    console.print(
        "denoising against scikit-learn's leave-one-out fit, of the root mean square signal: "
        f"mean {oracle['mean']:.1e}, largest {oracle['largest']:.1e}"
    )
    if "rms_error" not in found:
        return
    names = sorted({name for bias in found["bias"].values() for name in bias}, key=("md", "fa", "ndi").index)
    units = {"md": "bias of MD, mm^2/s", "fa": "bias of FA", "ndi": "bias of NDI"}
    titles = ["against the truth", "RMS error in the brain", "without b=0", *(units[name] for name in names)]
    table = new_table(*titles, right=range(1, len(titles)))
    for name, error in found["rms_error"].items():
        weighted = f"{found['rms_error_weighted'][name]:.2f}"
        table.add_row(name, f"{error:.2f}", weighted, *(f"{found['bias'][name][what]:+.2e}" for what in names))
    console.print(table)


def print_parts(row: Row) -> None:
    """Where the chain's time goes."""
    if "parts" not in row:
        return
    table = new_table("the chain's time", "seconds", "share", right=(1, 2))
    for what, seconds in row["parts"].items():
        table.add_row(what, f"{seconds:.2f}", f"{seconds / row['seconds']:.0%}")
    console.print(table)
    console.print("computing: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in row["steps"].items()))


def print_growth(rows: Sequence[Row]) -> None:
    """A table for each step and for each of what grows; the last line is the whole, which the others are shares of."""
    for step, grows in dict.fromkeys((row["step"], row["grows"]) for row in rows):
        points = [row for row in rows if (row["step"], row["grows"]) == (step, grows)]
        table = new_table(grows, "seconds", "of the last", "peak MB", title=f"{step}: {grows}", right=range(4))
        last = points[-1].get("seconds")
        for point in points:
            if "problem" in point:
                table.add_row(str(point["amount"]), "none", "", "")
                continue
            share = f"{point['seconds'] / last:.2f}" if last else ""
            table.add_row(str(point["amount"]), f"{point['seconds']:.2f}", share, str(point["peak_mb"]))
        console.print(table)
        for point in points:
            if "problem" in point:
                console.print(f"{step}, {point['amount']} of the {grows}: {point['problem']}")


def new_table(*titles: str, right: Sequence[int] = (), title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for index, name in enumerate(titles):
        table.add_column(name, justify="right" if index in right else "left")
    return table


def _figures(row: Row) -> list[str]:
    if "problem" in row:
        return [row["problem"] if row["problem"] == "not installed" else "none, see below", ""]
    return [f"{row['seconds']:.2f}", str(row["peak_mb"])]


def _difference(difference: Row) -> list[str]:
    figures = [difference.get(name) for name in ("mean", "percentile_99", "largest")]
    return [difference.get("quantity", ""), *("" if figure is None else f"{figure:.2g}" for figure in figures)]
