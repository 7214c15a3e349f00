"""Rewrites `digests.json` with what the present code computes.

    python -m kwneuro_assets_tests.golden.update [--accept] [ENTRY ...]

Refuses an entry whose result changed while its algorithm version did not; `--accept` records it nevertheless, for a
change of the test's own inputs. Entries of networks whose packages are not installed stay as they are, and so do those
that are not named if any are: the recorded environment is then still that of the others.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from typing import Any

from kwneuro_assets_tests.golden.compare import FILE, problem, recorded, same_environment
from kwneuro_assets_tests.golden.compute import compute_apart
from kwneuro_assets_tests.golden.entries import ENTRIES

LINE_DEPTH = 4  # of file, entries, entry, summary


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accept", action="store_true", help="record changed results without a raised version, too")
    parser.add_argument("names", nargs="*", metavar="ENTRY", help="compute only these, such as 'dti max_bvalue=2500.0'")
    options = parser.parse_args(arguments)
    accept, names = options.accept, options.names or list(ENTRIES)
    if unknown := set(names) - set(ENTRIES):
        parser.error(f"no such entry: {', '.join(sorted(unknown))}")
    known = recorded() if FILE.exists() else {"environment": {}, "entries": {}}
    absent = {name for name, entry in ENTRIES.items() if entry.needs and find_spec(entry.needs) is None}
    found = compute_apart(name for name in names if name not in absent)
    exact = same_environment(known["environment"], found["environment"])
    entries, refused = {}, []
    for name in ENTRIES:
        before, now = known["entries"].get(name), found["entries"].get(name)
        if now is None:
            if name in absent:
                print(f"{name}: not computed, {ENTRIES[name].needs} is not installed")
            now = before
        elif before and not accept and all(before[key] == now[key] for key in ("version", "parameters", "libraries")):
            wrong = problem(name, before, now, exact=exact)
            if wrong:
                refused.append(wrong)
        if now:
            entries[name] = now
    if refused:
        print("\n".join(refused))
        return 1
    environment = known["environment"] if options.names else {**known["environment"], **found["environment"]}
    FILE.write_text(_formatted({"environment": environment, "entries": entries}) + "\n", encoding="utf-8")
    changed = [name for name, one in entries.items() if one != known["entries"].get(name)]
    print(f"{FILE.name}: {len(entries)} entries, {len(changed)} of them new or changed: {', '.join(changed) or 'none'}")
    return 0


def _formatted(content: Any, depth: int = 0) -> str:
    """JSON with one line for each array of an entry."""
    if depth == LINE_DEPTH or not isinstance(content, dict):
        return json.dumps(content)
    margin = " " * (depth + 1)
    lines = [f"{margin}{json.dumps(key)}: {_formatted(value, depth + 1)}" for key, value in content.items()]
    return "{\n" + ",\n".join(lines) + f"\n{margin[1:]}}}"


if __name__ == "__main__":
    raise SystemExit(main())
