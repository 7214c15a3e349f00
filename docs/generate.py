"""Reference pages and the layer diagram, generated from the code whenever the site is built (a MkDocs hook).

They are not stored in the repository, so they cannot be out of date. `python docs/generate.py FOLDER` writes them to a
folder, to read them without the site.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kwneuro_assets.assets.derivative import Derivative

ROOT = Path(__file__).resolve().parents[1]
MAPS = {  # of the derivatives that store several maps; the test of the tutorial compares them with a store
    "dti": "fa md ad rd tensor evals evecs",
    "noddi": "ndi odi fwf direction rmse ndiweighted odiweighted",
    "csd_peaks": "peaks peakvalues wmfraction gmfraction csffraction fod",
}
EXPORTED = ("tensor_in",)  # by `kwneuro_assets`, on first use
SIDECAR_KEYS = {
    "Description": "What the derivative is",
    "Sources": "The files it was computed from, as BIDS URIs",
    "ValueType": "The value type that `kwneuro_assets.load` returns",
    "Content": "Content that has no file: map names, labels, coefficients of a response function, a reason",
    "Parameters": "The settings that the derivative uses; a file among them by name and sha256",
    "CodeVersion": "Algorithm version and hash over parameters and version-relevant libraries: `<n>-<8 hex>`",
    "DataVersion": "sha256 over the canonical content of the stored value",
    "InputDataVersions": "The data version of each input",
    "Libraries": "The versions of the libraries that computed it",
    "WeightsSha256": "sha256 of each file of the neural network that was used",
    "Networks": "How the neural network ran: `Device`, `Precision`, `Mirroring` (brain extraction only), and a `Note` "
    "if it was the demo's",
    "Files": "Size in bytes and sha256 of each file",
    "SidecarSha256": "sha256 over the canonical JSON of all other keys",
}


# -- The command line ------------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Usage, options and help of every command."""
    from kwneuro_assets.cli.main import main

    context = click.Context(main, info_name="kwneuro-assets")
    parts = ["# Command line", *(_command(child, name) for name, child in _commands(main, context))]
    return "\n\n".join(parts) + "\n"


def _commands(command: click.Command, context: click.Context) -> Iterator[tuple[click.Context, click.Command]]:
    yield context, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _commands(child, click.Context(child, info_name=name, parent=context))


def _command(command: click.Command, context: click.Context) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        f"## {context.command_path}",
        _help(command.help or ""),
        f"```text\n{context.command_path} {usage}\n```",
    ]
    options = [record for parameter in command.params if (record := parameter.get_help_record(context))]
    if options:
        table = "\n".join(f"| `{names}` | {_cell(text)} |" for names, text in options)
        lines.append(f"| option | meaning |\n|---|---|\n{table}")
    return "\n\n".join(line for line in lines if line)


def _help(text: str) -> str:
    """Click does not wrap a paragraph that begins with a backspace: it is preformatted."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        "```text\n{}\n```".format(one.removeprefix("\b\n")) if one.startswith("\b") else one for one in paragraphs
    )


# -- Python ----------------------------------------------------------------------------------------------------------


def python_page() -> str:
    """The public functions, the value types, and the derivations that the assets call."""
    import kwneuro_assets
    from kwneuro_assets import imaging

    parts = [
        "# Python",
        "Derivatives are read by the functions of `kwneuro_assets`. The derivations are pure functions of value types "
        "and need neither Dagster nor a store.",
        "## kwneuro_assets",
        *(_object(name, getattr(kwneuro_assets, name)) for name in _public(kwneuro_assets)),
        "## kwneuro_assets.imaging: value types",
        *(_object(name, getattr(imaging, name)) for name in imaging.__all__),
        "## kwneuro_assets.derivations",
        *(_object(f"{module}.{name}", getattr(importlib.import_module(f"kwneuro_assets.derivations.{module}"), name))
          for module, name in derivations()),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def derivations() -> list[tuple[str, str]]:
    """(module, function) of each derivation that an asset module imports, in the order of the names."""
    found = set()
    for file in (ROOT / "kwneuro_assets" / "assets").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kwneuro_assets.derivations."):
                found |= {((node.module or "").rpartition(".")[2], name.name) for name in node.names}
    return sorted(
        (module, name)
        for module, name in found
        if inspect.isfunction(getattr(importlib.import_module(f"kwneuro_assets.derivations.{module}"), name))
    )


def _public(module: ModuleType) -> list[str]:
    """The functions of a module: those that it defines, and those that it exports on first use."""
    defined = [name for name, value in vars(module).items() if inspect.isfunction(value) and not name.startswith("_")]
    return [*defined, *(name for name in EXPORTED if name not in defined)]


def _object(name: str, value: Any) -> str:
    try:
        signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(value)))  # annotations are text
        signature = re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", signature)
    except (TypeError, ValueError):
        signature = ""
    documentation = inspect.getdoc(value) or ""
    parts = [
        f"### {name} {{ #{name} }}",
        f"```python\n{name.rpartition('.')[2]}{_wrapped(signature)}\n```",
        _markdown(documentation),
    ]
    if inspect.isclass(value):
        for member, method in vars(value).items():
            if not member.startswith("_") and (text := _member(member, method)):
                parts.append(text)
    return "\n\n".join(parts)


def _member(name: str, member: Any) -> str:
    function = getattr(member, "__func__", member)
    if isinstance(member, property):
        return f"- `{name}`: {_summary(member.fget)}" if member.fget else ""
    if not inspect.isfunction(function):
        return ""
    parameters = [str(one) for one in list(inspect.signature(function).parameters)[1:]]
    return f"- `{name}({', '.join(parameters)})`: {_summary(function)}"


def _summary(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")


def _wrapped(signature: str) -> str:
    """One parameter per line where the signature is long."""
    if len(signature) < 70:
        return signature
    depth, text = 0, ""
    for character in signature:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        text += character
        if depth == 1 and character in "(,":
            text += "\n    "
    return text.replace("\n     ", "\n    ").replace(") ->", "\n) ->", 1)


def _markdown(documentation: str) -> str:
    """Docstrings are Markdown, except for doctests."""
    lines, within = [], False
    for line in documentation.split("\n"):
        if line.startswith(">>>") and not within:
            lines.append("```pycon")
            within = True
        elif within and not line.strip():
            lines.append("```")
            within = False
        lines.append(line)
    return "\n".join([*lines, "```"] if within else lines)


# -- Files -----------------------------------------------------------------------------------------------------------


def files_page() -> str:
    """Each asset with its files and description, and the keys of a sidecar."""
    from kwneuro_assets.assets import ALL_DERIVATIVES, GROUP_DERIVATIVES

    parts = [
        "# Files and sidecars",
        "Files of a subject are stored in `sub-LABEL/[ses-LABEL/]dwi/`, those of the cohort at the root of the store; "
        "`<p>` is `sub-LABEL[_ses-LABEL]`. Every derivative has one JSON sidecar, written last, and all but pages and "
        "tables of the cohort have a figure (`<stem>_figure.png`). [Storage](../storage.md) describes how they are "
        "written.",
    ]
    for derivative in (*ALL_DERIVATIVES, *GROUP_DERIVATIVES):
        files = "\n".join(f"- `{file}`" for file in _files(derivative))
        parts += [f"## {derivative.name}", _markdown(inspect.getdoc(derivative.compute) or ""), files]
        fields = "\n".join(
            f"| `{key}` | `{json.dumps(value)}` |" for key, value in derivative.bids.items() if key != "Maps"
        )
        if fields:
            parts.append(f"| field of the sidecar | value |\n|---|---|\n{fields}")
    keys = "\n".join(f"| `{key}` | {meaning} |" for key, meaning in SIDECAR_KEYS.items())
    parts += ["## Keys of a sidecar", f"Besides the fields for BIDS above:\n\n| key | meaning |\n|---|---|\n{keys}"]
    return "\n\n".join(parts) + "\n"


def _files(derivative: Derivative) -> list[str]:
    """The names of its files, with `<p>` for the subject and the names of the maps in braces."""
    from kwneuro_assets.assets.mechanism.description import EXAMPLE, example_files

    maps = f"{{{','.join(MAPS.get(derivative.name, '').split())}}}"
    names = [file.rpartition("/")[2].replace("<map>", maps) for file in example_files(derivative)]
    return [f"<p>{name.removeprefix(str(EXAMPLE))}" if name.startswith(str(EXAMPLE)) else name for name in names]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# -- Layers ----------------------------------------------------------------------------------------------------------


WIDTH, ROW_HEIGHT, BOX_HEIGHT, MARGIN = 900, 78, 34, 24  # pixels
_SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"
  font-family="sans-serif" font-size="14">
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 L8 4 L0 8 z" fill="#7986cb"/></marker></defs>
<rect width="{width}" height="{height}" fill="#fff"/>
<g fill="none" stroke="#c5cae9" stroke-width="0.7" stroke-opacity="0.6">
{implied}
</g>
<g fill="none" stroke="#3f51b5" stroke-opacity="0.8" marker-end="url(#arrow)">
{arrows}
</g>
<g fill="#e8eaf6" stroke="#3f51b5">
{boxes}
</g>
<g fill="#1a237e" text-anchor="middle">
{labels}
</g>
</svg>
"""


def layers_svg() -> str:
    """The layers from top to bottom, with an arrow for each pair of which one imports the other.

    The arrow is a pale line if other arrows also lead from one to the other.
    Raises ValueError for an import that does not point downward.
    """
    from kwneuro_assets_tests.testkit.layers import PACKAGE, RANKS, ROWS, layer_edges, layer_of, module_name

    edges = set(layer_edges())
    upward = [edge for edge in edges if RANKS[edge[0]] >= RANKS[edge[1]]]
    if upward:
        raise ValueError(f"imports that do not point downward: {upward}")
    present = {layer_of(module_name(file)) for file in PACKAGE.rglob("*.py")}
    rows = [here for row in ROWS if (here := [name for name in row if name in present])]
    place = {
        name: (WIDTH * (column + 0.5) / len(row), MARGIN + number * ROW_HEIGHT)
        for number, row in enumerate(rows)
        for column, name in enumerate(row)
    }
    implied = {edge for edge in edges if _reaches(edges - {edge}, *edge)}
    return _SVG.format(
        width=WIDTH,
        height=2 * MARGIN + len(rows) * ROW_HEIGHT - (ROW_HEIGHT - BOX_HEIGHT),
        arrows="\n".join(_arrow(place[importer], place[imported]) for importer, imported in sorted(edges - implied)),
        implied="\n".join(_arrow(place[importer], place[imported]) for importer, imported in sorted(implied)),
        boxes="\n".join(_box(name, *where) for name, where in place.items()),
        labels="\n".join(f'<text x="{x:.0f}" y="{y + 22}">{name}</text>' for name, (x, y) in place.items()),
    )


def _reaches(edges: set[tuple[str, str]], start: str, end: str) -> bool:
    return any(imported == end or _reaches(edges, imported, end) for importer, imported in edges if importer == start)


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = (start[0], start[1] + BOX_HEIGHT), (end[0], end[1] - 2)
    middle = (y1 + y2) / 2
    # Long arrows bend aside, as they would otherwise pass through the boxes between.
    aside = 0 if y2 - y1 < ROW_HEIGHT else (170 if x1 >= WIDTH / 2 else -170)
    return f'<path d="M{x1:.0f} {y1} C{x1 + aside:.0f} {middle:.0f} {x2 + aside:.0f} {middle:.0f} {x2:.0f} {y2}"/>'


def _box(name: str, x: float, y: float) -> str:
    half = 12 + 4.2 * len(name)
    return f'<rect x="{x - half:.0f}" y="{y}" width="{2 * half:.0f}" height="{BOX_HEIGHT}" rx="6"/>'


# -- MkDocs ----------------------------------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """Every generated file by its path below docs/."""
    return {
        "reference/cli.md": cli_page(),
        "reference/python.md": python_page(),
        "reference/files.md": files_page(),
        "images/layers.svg": layers_svg(),
    }


def on_files(files: Any, config: Any) -> Any:
    """MkDocs calls this before it reads the pages."""
    from mkdocs.structure.files import File

    for path, content in pages().items():
        files.append(File.generated(config, path, content=content))
    return files


sys.path.insert(0, str(ROOT))  # the tests' layer order; the package itself is installed

if __name__ == "__main__":
    for path, content in pages().items():
        target = Path(sys.argv[1]) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
        print(target)
