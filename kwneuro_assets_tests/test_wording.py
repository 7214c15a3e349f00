"""The project uses one word per thing.

`python -m kwneuro_assets_tests.test_wording [PATH ...]` lists what to replace.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACES = (
    "kwneuro_assets", "kwneuro_assets_tests", "benchmarks", "docs", "*.md", "*.toml", "*.yaml", "*.cff", "Makefile"
)  # fmt: skip
SUFFIXES = (".py", ".md", ".toml", ".yaml", ".yml", ".cff", "")

# What to write instead, and the words that are not used for it. An underscore separates words, too.
REPLACEMENTS = {
    "American spelling": (
        r"\w*(?:fibre|grey|colour|centre[ds]?\b|normalis|neighbour|behaviour|favour|honour|recognis|initialis|optimis"
        r"|organis|harmonis|analys(?:e[ds]?|ing)\b|labelled|modelled|modelling|cancelled|metres?\b|artefact|catalogue"
        r"|summaris|visualis|serialis|minimis|maximis|standardis|regularis|penalis|generalis|licence)\w*"
    ),
    "report, message, say": r"told|tells?|telling|sentences?",
    "skip, retain, store": r"kept",
    "the user, manually": r"a person|persons|nobody|somebody|by hand",
    "scan, rescan, read, check": r"look(?:s|ed|ing)?(?! up\b| like\b)",
    "materialize, rematerialize, compute, again": r"anew|remake|remakes|remade|remaking|made again|makes? again",
    "up to date, out of date": r"settled|unsettled",
    "missing from the store": r"lost",
    "lock, heartbeat": r"takes? turns?|its turn|(?:a|the) turn|signs? of life|beats?",
    "ingest index, ScannedSubject": r"ledger|seen subjects?",
    "fingerprint": r"stamp|stamps|stamped",
    "excluded, quarantined, orphaned, removed": r"sets? aside|gone",
    "queued or running": r"waits? or works?",
    "retry, transient error": r"patience|patiently|passing (?:error|failure|fault|trouble)s?",
    "complete, intact, entire, integer": r"(?<!as a )whole(?![ -]brain)",
    "version-relevant": r"decisive",
    "sanity check": r"plausib\w+",
    "figure": r"pictures?|sheets?",
    "fraction, proportion": r"shares of|(?:the|a|an|its|water|white|this|that|which|what|largest) shares?",
    "rotated, flipped, oblique": r"upright|turned(?! on| off| into)",
    "fix, correct": r"mend|mends|mended|mending",
}
_WORDS = {better: re.compile(rf"(?<![^\W_])(?:{words})(?![^\W_])", re.I) for better, words in REPLACEMENTS.items()}


def files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        found = path.rglob("*") if path.is_dir() else [path]
        yield from sorted(one for one in found if one.is_file() and one.suffix in SUFFIXES and one != Path(__file__))


def violations(paths: Iterable[Path]) -> list[str]:
    """`file:line: word -> what to write instead`. The changelog may quote old names, in backticks."""
    return [
        f"{file}:{number}: {found[0]!r} -> {better}"
        for file in files(paths)
        for number, line in enumerate(_text(file).splitlines(), 1)
        for better, words in _WORDS.items()
        for found in words.finditer(line)
    ]


def _text(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    return re.sub(r"`[^`\n]*`", "", text) if file.name == "CHANGELOG.md" else text


@pytest.mark.parametrize("place", PLACES)
def test_one_word_per_thing(place: str) -> None:
    found = violations(ROOT.glob(place))
    assert not found, "\n".join(found[:50])


if __name__ == "__main__":
    named = [Path(name).resolve() for name in sys.argv[1:]]
    print("\n".join(violations(named or [path for place in PLACES for path in ROOT.glob(place)])))
