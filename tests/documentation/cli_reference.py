"""``docs/reference/cli.md``, made of what ``--help`` prints."""

from collections.abc import Iterator

import click

from steplog.cli import commands

HEAD = """# Every command and option

What `steplog COMMAND --help` prints; `python -m tests.documentation` writes this page. What the commands are for, with
examples of what they print, is in [the command line](../cli.md).
"""
WIDTH = 100


def build() -> str:
    """Write the page."""
    texts = [f"## {path}\n\n```text\n{text}\n```\n" for path, text in _helps(commands, None, "steplog")]
    return "\n".join([HEAD, *texts])


def _helps(command: click.Command, parent: click.Context | None, name: str) -> Iterator[tuple[str, str]]:
    context = click.Context(
        command, parent, name, terminal_width=WIDTH, max_content_width=WIDTH, **command.context_settings
    )
    yield context.command_path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            assert below is not None, f"{each} is in the list of commands"
            yield from _helps(below, context, each)
