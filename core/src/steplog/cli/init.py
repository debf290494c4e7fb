"""``steplog init``: a project of three files."""

import re
import shlex
from pathlib import Path

import click

from steplog.cli.output import echo, print_json

DEFAULT_APP = "shop"

ORDERS = '''"""A shop that ships orders in two steps; a step that has succeeded never runs again."""

from steplog import App, Context

app = App("{app}")


@app.function("ship-order", trigger="{app}/order.placed")
async def ship_order(ctx: Context) -> str:
    """Run from the top after a crash: steps that are recorded give their result again."""
    order = ctx.event.data
    receipt = await ctx.step.run("charge", charge, order["id"], order["total"])
    parcel = await ctx.step.run("pack", pack, order["id"])
    return f"{{receipt}}, {{parcel}}"


def charge(order: str, total: int) -> str:
    """Take the money; returns the number of the receipt."""
    return f"receipt-{{order}}-{{total}}"


def pack(order: str) -> str:
    """Pack the goods; returns the number of the parcel."""
    return f"parcel-{{order}}"
'''

TEST_ORDERS = """from steplog.testing import Testbed

from orders import ship_order

ORDER = {{"id": "o1", "total": 5}}


async def test_an_order_is_charged_and_packed(testbed: Testbed) -> None:
    run = await testbed.trigger(ship_order, ORDER)
    assert await run.result() == "receipt-o1-5, parcel-o1"


async def test_a_jammed_printer_is_tried_again(testbed: Testbed) -> None:
    jam = {{"pack": OSError("the printer is jammed")}}
    run = await testbed.trigger(ship_order, ORDER, step_stubs=jam)
    assert (run.status, run.steps["pack"].attempts) == ("failed", 5)
    assert run.steps["charge"].attempts == 1
"""

STEPLOG_TOML = """# steplog config show prints every key with its value and origin.
[app]
load = ["orders.py"]
"""

FILES = {"orders.py": ORDERS, "test_orders.py": TEST_ORDERS, "steplog.toml": STEPLOG_TOML}


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def init(name: str | None, as_json: bool) -> None:
    """Make a project in a new directory NAME, or in the present one. Files that exist are never written over.

    \b
    Examples:
      steplog init shop
      steplog init
    """
    directory = Path(name or ".")
    taken = [str(directory / file) for file in FILES if (directory / file).exists()]
    if taken:
        verb = "exists" if len(taken) == 1 else "exist"
        raise click.ClickException(f"{', '.join(taken)} {verb} already; nothing was written")
    app = app_id(directory.resolve().name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file, text in FILES.items():
            with (directory / file).open("x", encoding="utf8") as written:
                written.write(text if file.endswith(".toml") else text.format(app=app))
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    if as_json:
        print_json({"directory": str(directory), "app": app, "files": list(FILES)})
        return
    echo(f"start it:  {f'cd {shlex.quote(name)} && ' if name else ''}steplog dev")
    echo(f'then send: steplog send {app}/order.placed \'{{"id": "o1", "total": 5}}\' --wait 2s')


def app_id(name: str) -> str:
    """Make an app's id of a directory's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or DEFAULT_APP
