"""The help of all commands is complete, and shows up without importing Dagster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from kwneuro_assets.cli.main import main


def commands(command: click.Command, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The command and all its subcommands, by the words that follow `kwneuro-assets`."""
    yield names, command
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from commands(one, *names, name)


COMMANDS = dict(commands(main))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_describes_the_command_and_every_option(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    assert command.help
    undocumented = [one.name for one in command.params if isinstance(one, click.Option) and not one.help]
    assert undocumented == []
    done = CliRunner().invoke(main, [*words, "--help"])
    assert done.exit_code == 0
    assert command.help.split("\n")[0] in done.output


def test_help_imports_no_slow_library() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from kwneuro_assets.cli.main import main\n"
        "assert CliRunner().invoke(main, ['run', '--help']).exit_code == 0\n"
        "print([name for name in ('dagster', 'pydantic', 'numpy', 'rich', 'requests') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
