"""What shells complete beside commands and options: runs and functions, as the server has them, and configuration keys.

Where no server answers, nothing is offered.
"""

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from steplog.errors import SteplogError

if TYPE_CHECKING:
    from steplog.cli.views import Run

NEWEST = 100  # runs that are looked at


def runs(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The newest runs, by the last characters of their ids."""
    from steplog.cli.output import SHOWN_CHARACTERS

    known = {run.run_id[-SHOWN_CHARACTERS:]: f"{run.function} {run.state}" for run in _newest(ctx)}
    return [CompletionItem(id_, help=text) for id_, text in known.items() if id_.startswith(incomplete.upper())]


def functions(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The functions of the newest runs."""
    known = sorted({run.function for run in _newest(ctx)})
    return [CompletionItem(id_) for id_ in known if id_.startswith(incomplete)]


def keys(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The keys of the configuration, as ``--set`` takes them."""
    from steplog.config.schema import keys as known

    return [
        CompletionItem(f"{name}=", help=key.description) for name, key in known().items() if name.startswith(incomplete)
    ]


def _newest(ctx: click.Context) -> "list[Run]":
    from steplog.cli.client import Server
    from steplog.cli.views import Run

    try:
        return Server(ctx.params.get("url")).get("/v1/runs", list[Run], limit=NEWEST).data
    except SteplogError:
        return []
