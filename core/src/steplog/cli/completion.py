"""``steplog completion``: the script that lets a shell complete commands and options."""

import click
from click.shell_completion import get_completion_class

from steplog.cli.output import echo

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in a shell.

    \b
    Examples:
      steplog completion bash > ~/.local/share/bash-completion/completions/steplog
      steplog completion fish > ~/.config/fish/completions/steplog.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells of SHELLS"
    echo(kind(ctx.find_root().command, {}, "steplog", "_STEPLOG_COMPLETE").source(), newline=False)
