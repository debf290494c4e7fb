"""Functions that a cron starts each minute. Each body that begins leaves a line, as in tests/faults/shop.py."""

import os
import time

from steplog import App, Context, TriggerCron, current_step

app = App("minutely")
_effects = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note() -> None:
    step = current_step()
    os.write(_effects, f"{step.key} {step.attempt} {time.time() * 1000:.0f}\n".encode())


async def work(ctx: Context) -> None:
    await ctx.step.run("only", note)


for n in range(6):
    app.function(f"tick-{n}", trigger=TriggerCron("* * * * *", catch_up="all"))(work)
