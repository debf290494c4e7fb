"""A shop that ships orders: three steps, each of which asks someone outside for something.

    steplog dev orders.py
    steplog send shop/order.placed '{"id": "o1", "total": 4200, "email": "ada@example.com"}' --wait 2s

Without BANK_URL, WAREHOUSE_URL and MAIL_URL nobody is asked, and each step takes as long as it would.
"""

import asyncio
import os

from steplog import App, Context, current_step

app = App("shop", version="2026.11.1")


@app.function("ship-order", trigger="shop/order.placed")
async def ship_order(ctx: Context) -> dict[str, str]:
    """Run from the top after every crash; steps that are recorded give their result again, and do not run."""
    order = ctx.event.data
    receipt = await ctx.step.run("charge", charge, order["id"], order["total"])
    parcel = await ctx.step.run("pack", pack, order["id"])
    await ctx.step.run("notify", notify, order["id"], order["email"], parcel)
    return {"receipt": receipt, "parcel": parcel}


async def charge(order: str, amount: int) -> str:
    """Take the money; returns the number of the bank's receipt."""
    return await ask("BANK_URL", 40, {"order": order, "amount": amount})


async def pack(order: str) -> str:
    """Have the goods packed; returns the number of the parcel."""
    return await ask("WAREHOUSE_URL", 60, {"order": order})


async def notify(order: str, email: str, parcel: str) -> str:
    """Write to the customer; returns the number of the letter."""
    return await ask("MAIL_URL", 5, {"order": order, "to": email, "parcel": parcel})


async def ask(service: str, takes_ms: int, request: dict[str, str | int]) -> str:
    """Ask a service. A step that is tried again has the same key, so the service need not act twice."""
    step = current_step()
    url = os.environ.get(service)
    if url is None:
        await asyncio.sleep(takes_ms / 1000)
        return f"{step.step_id}-{request['order']}"
    import aiohttp

    headers = {"Idempotency-Key": step.key, "X-Attempt": str(step.attempt)}
    async with aiohttp.request("POST", url, json=request, headers=headers) as response:
        response.raise_for_status()
        return await response.text()
