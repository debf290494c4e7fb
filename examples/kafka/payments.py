"""Payments that another program writes to a topic of Kafka: each is booked once, in the order of its account.

kcat -P -b localhost:9092 -t payments -K: <<< 'ann:{"amount": 5}'
steplog dev
steplog runs list
steplog dead list
"""

from dataclasses import dataclass
from typing import Any

from steplog import App, Context, EventType

app = App("shop")


@dataclass
class Payment:
    """What a record says."""

    amount: int


@dataclass
class Came:
    """A record, as the connector makes it into an event: where it stood, its key, and its value."""

    topic: str
    partition: int
    offset: int
    key: str
    value: Payment
    headers: dict[str, Any]
    timestamp: int | None


payment = EventType("shop/payment", Came)


@app.function("book", trigger=payment)
async def book(ctx: Context[Came]) -> str:
    """Book a payment; the step is recorded, and not repeated, whatever dies."""
    came = ctx.event.data
    return await ctx.step.run("enter", enter, came.key, came.value.amount)


async def enter(account: str, amount: int) -> str:
    """Enter an amount in an account; returns the line of the ledger."""
    return f"{account}: {amount}"
