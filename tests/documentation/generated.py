"""Every page that is made from code, and what makes it."""

from collections.abc import Callable

from . import api_reference, cli_reference, index, rest_reference, schemas

GENERATED: dict[str, Callable[[], str]] = {
    "docs/reference/api.md": api_reference.build,
    "docs/reference/cli.md": cli_reference.build,
    "docs/reference/rest.md": rest_reference.build,
    "docs/schema/journal.json": schemas.build_journal,
    "docs/schema/event.json": schemas.build_event,
    "docs/decisions/README.md": index.build_decisions,
    "llms.txt": index.build,
}
