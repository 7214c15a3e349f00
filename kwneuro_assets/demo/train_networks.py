"""Trains the demo's networks: `python -m kwneuro_assets.demo.train_networks [--folder FOLDER]`.

They are TractSeg's own network with fewer filters, trained on synthetic heads, and know the tracts of these heads.
Their files have TractSeg's names and format, with all of its classes. The classes of absent tracts are always empty.

All random numbers come from `--seed`, and the number of steps is fixed, so the same versions of PyTorch and NumPy on
the same kind of processor with the same number of threads give the same files. Other processors round differently, and
thousands of steps amplify that: the networks are then as good, but not the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np

from kwneuro_assets.demo.networks import FOLDER
from kwneuro_assets.demo.training_heads import Anatomy
from kwneuro_assets.demo.training_slices import ENDINGS, MASKS, ORIENTATIONS, Batch, Task, batch
from kwneuro_assets.derivations.networks import needs_extra, quiet
from kwneuro_assets.derivations.tracts import ENDING_WEIGHTS, MASK_WEIGHTS, ORIENTATION_WEIGHTS

FILTERS = 8  # of the first convolution; TractSeg has 64
HEADS = 100
STEPS = 3000  # for the masks; the other two networks start from their filters
ENDING_STEPS = 0.6  # relative to these
DIRECTION_STEPS = 0.4
LEARNING_RATE = 2e-3  # at its highest
WARM_UP = 50  # steps
LAST_RATE = 0.01  # relative, at the end
ABSENT = -12.0  # logit of the classes of absent tracts: a probability of 6e-6
LIKELY = 4.0  # negative logit of a tract before training, near its proportion of the voxels
BEFORE = 4  # batches made in advance

_HEAD_LAYERS = ("conv_5", "output_2", "output_3")  # the layers with one output for each class

State = dict[str, Any]  # tensors by name
Report = Callable[[str], None]


def train_networks(
    folder: Path,
    *,
    heads: Sequence[Anatomy],
    steps: int = STEPS,
    filters: int = FILTERS,
    seed: int = 0,
    report: Report = print,
) -> list[Path]:
    """Train the networks for masks, endings and orientation maps, and write their files into `folder`."""
    more, less = (max(1, round(steps * part)) for part in (ENDING_STEPS, DIRECTION_STEPS))
    masks = train(MASKS, heads, steps=steps, filters=filters, seed=seed, report=report)
    endings = train(ENDINGS, heads, steps=more, filters=filters, seed=seed + 1, start=masks, report=report)
    directions = train(ORIENTATIONS, heads, steps=less, filters=filters, seed=seed + 2, start=masks, report=report)
    return write_networks(folder, masks, endings, directions, filters)


def training_heads(count: int = HEADS, seed: int = 0) -> Iterator[Anatomy]:
    """The synthetic heads to train on; each takes about a second."""
    return (Anatomy.random(np.random.default_rng([seed, index])) for index in range(count))


def train(
    task: Task,
    heads: Sequence[Anatomy],
    *,
    steps: int,
    filters: int = FILTERS,
    seed: int = 0,
    start: State | None = None,
    report: Report = print,
) -> State:
    """The trained weights of a network for `task`; all but the last layers start from `start` if given."""
    import torch

    torch.manual_seed(seed)
    network = _new_network(task.channels, filters, "nearest" if task.directed else "bilinear")
    _initialize(network, task, start)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters())
    losses: list[list[float]] = []
    for step, (inputs, targets) in enumerate(_batches(heads, task, steps, seed)):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = network(torch.from_numpy(inputs).contiguous(memory_format=torch.channels_last))
        terms = (_direction_loss if task.directed else _mask_loss)(outputs.float(), torch.from_numpy(targets))
        optimizer.zero_grad()
        sum(terms).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append([float(term.detach()) for term in terms])
        if (step + 1) % 50 == 0 or step + 1 == steps:
            mean = np.mean(losses[-50:], axis=0)
            report(
                f"{task.names[-1]} and others: step {step + 1} of {steps}, loss "
                + " + ".join(map("{:.4f}".format, mean))
            )
    return {name: value.detach().contiguous() for name, value in network.state_dict().items()}


def write_networks(folder: Path, masks: State, endings: State, directions: State, filters: int) -> list[Path]:
    """Write the weights as TractSeg's files, in half precision, with all of TractSeg's classes; returns the files."""
    with needs_extra("tractseg"), quiet():
        from tractseg.data.dataset_specific_utils import get_bundle_names

    folder.mkdir(parents=True, exist_ok=True)
    files = [
        _write(folder / MASK_WEIGHTS, masks, MASKS, get_bundle_names("All")[1:]),
        _write(folder / ENDING_WEIGHTS, endings, ENDINGS, get_bundle_names("All_endpoints")[1:]),
    ]
    for part, name in enumerate(ORIENTATION_WEIGHTS, 1):
        files.append(_write(folder / name, directions, ORIENTATIONS, get_bundle_names(f"All_Part{part}")[1:]))
    return files


def _write(file: Path, state: State, task: Task, classes: Sequence[str]) -> Path:
    import torch

    known = [task.names.index(name) if name in task.names else _undivided(name, task) for name in classes]
    width = 3 if task.directed else 1
    rows = [None if place is None else range(width * place, width * (place + 1)) for place in known]
    stored = {}
    for name, values in state.items():
        if name.split(".")[0] in _HEAD_LAYERS:
            absent = 0.0 if task.directed or name != "conv_5.bias" else ABSENT
            wide = torch.full((width * len(classes), *values.shape[1:]), absent)
            for place, row in enumerate(rows):
                if row is not None:
                    wide[width * place : width * (place + 1)] = values[list(row)]
            values = wide
        stored[name] = values.half()
    torch.save({"unet": stored}, file)
    return file


def _undivided(name: str, task: Task) -> int | None:
    """The place of the tract of which `name` is a part, if the task has it: CC for CC_1."""
    tract = name.partition("_")[0]
    return task.names.index(tract) if task.directed and tract in task.names else None


def _new_network(channels: int, filters: int, upsample: str) -> Any:
    with needs_extra("tractseg"), quiet():
        from tractseg.models.unet_pytorch_deepsup import UNet_Pytorch_DeepSup

    return UNet_Pytorch_DeepSup(n_input_channels=9, n_classes=channels, n_filt=filters, upsample=upsample)


def _initialize(network: Any, task: Task, start: State | None) -> None:
    """Kaiming's initialization, small weights in the last layers, and the other layers of `start`."""
    import torch

    for layer in network.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            torch.nn.init.kaiming_normal_(layer.weight, a=0.01)
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
    for name in _HEAD_LAYERS:
        torch.nn.init.normal_(getattr(network, name).weight, 0, 0.01)
    if not task.directed:
        torch.nn.init.constant_(network.conv_5.bias, -LIKELY)
    if start is not None:
        own = network.state_dict()
        own.update({name: values for name, values in start.items() if name.split(".")[0] not in _HEAD_LAYERS})
        network.load_state_dict(own)


def _batches(heads: Sequence[Anatomy], task: Task, steps: int, seed: int) -> Iterator[Batch]:
    """The batches of all steps, made in advance by another thread; each depends on the seed and its step alone."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Any] = deque()
        for step in range(steps + BEFORE):
            if step < steps:
                waiting.append(pool.submit(batch, heads, task, np.random.default_rng([seed, step])))
            if step >= BEFORE:
                yield waiting.popleft().result()


def _learning_rate(step: int, steps: int) -> float:
    """A short increase, then half a period of a cosine."""
    cosine = 0.5 * (1 + np.cos(np.pi * step / steps))
    return float(LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * (LAST_RATE + (1 - LAST_RATE) * cosine))


def _mask_loss(outputs: Any, targets: Any) -> tuple[Any, Any]:
    """Cross entropy, and one minus the soft Dice of the tracts in the batch: small tracts count as much as large."""
    import torch

    entropy = torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets)
    probability = torch.sigmoid(outputs)
    size = targets.sum((0, 2, 3))
    dice = (2 * (probability * targets).sum((0, 2, 3)) + 1) / ((probability + targets).sum((0, 2, 3)) + 1)
    present = size > 0
    return 10 * entropy, 0.5 * (1 - dice[present]).mean() if present.any() else 0 * entropy


def _direction_loss(outputs: Any, targets: Any) -> tuple[Any, Any]:
    """One minus the cosine of the angle to the tract, and the deviation from unit length, inside the tracts."""
    import torch

    found, true = (values.unflatten(1, (-1, 3)) for values in (outputs, targets))
    inside = true.abs().sum(2) > 0
    length = torch.linalg.vector_norm(found, dim=2)
    cosine = (found * true).sum(2) / length.clamp_min(1e-3)
    # The mean over each tract, then over the tracts: small tracts count as much as large.
    count = inside.sum((0, 2, 3))
    weight = inside / count.clamp_min(1)[None, :, None, None] / (count > 0).sum().clamp_min(1)
    return ((1 - cosine) * weight).sum(), 0.1 * ((length - 1) ** 2 * weight).sum()


@click.command(help=__doc__)
@click.option(
    "--folder", type=click.Path(path_type=Path), default=FOLDER, help="For the files. [default: the package's]"
)
@click.option("--steps", type=click.IntRange(1), default=STEPS, show_default=True, help="For the masks.")
@click.option("--heads", type=click.IntRange(1), default=HEADS, show_default=True, help="Synthetic heads to train on.")
@click.option("--filters", type=click.IntRange(1), default=FILTERS, show_default=True, help="Of the first convolution.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="Threads of PyTorch.")
def main(folder: Path, steps: int, heads: int, filters: int, seed: int, threads: int) -> None:
    """Train all networks and write their files."""
    import torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        click.echo(f"making {heads} synthetic heads")
        made = list(training_heads(heads, seed))
        for file in train_networks(folder, heads=made, steps=steps, filters=filters, seed=seed, report=click.echo):
            click.echo(f"{file} ({file.stat().st_size / 1e6:.2f} MB)")
    finally:
        torch.set_flush_denormal(False)  # a mode of the calling thread


if __name__ == "__main__":
    main()
