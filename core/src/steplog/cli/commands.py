"""A group of commands that are imported when they are used, and the one place where errors become exit codes."""

import builtins
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from steplog.cli import errors

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Table = Mapping[str, tuple[str, str]]
"""Command: the module that has it under its name (``list_`` for ``list``), and its line in the list."""


class Commands(click.Group):
    """Commands by name. What a command returns is the exit code; None is 0."""

    def __init__(self, *, table: Table, **attributes: Any) -> None:  # click's own
        super().__init__(**attributes)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._table:
            return None
        module = import_module(self._table[cmd_name][0])
        command: click.Command = getattr(module, f"{cmd_name}_" if hasattr(builtins, cmd_name) else cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._table and not name.startswith("-") and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(name, self._table, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self._table)}"
            raise click.UsageError(f"there is no command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Complete a command's name without importing any."""
        from click.shell_completion import CompletionItem

        verbs = [
            CompletionItem(name, help=line) for name, (_, line) in self._table.items() if name.startswith(incomplete)
        ]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._table.items()])


def run(commands: Commands, arguments: Sequence[str]) -> int:
    """Run a command line; returns its exit code. Errors are told here, and nowhere else."""
    given = [argument for argument in arguments if argument != "--debug"]
    try:
        result = commands.main(given, "steplog", standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - the top of the process
        return errors.report(error, is_debug=len(given) < len(arguments))
    return result if isinstance(result, int) else 0
