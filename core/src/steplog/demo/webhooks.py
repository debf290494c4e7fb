"""What the shop's payment provider tells it: bodies of ``checkout.session.completed``, in the form Stripe documents.

The bodies are made up. They become the shop's own events under the provider's ids, so one that is delivered again does
not ship twice.
"""

import json
from importlib.resources import files
from typing import Any

COUNT = 200


def bodies() -> list[str]:
    """Read the bodies, oldest first."""
    return files(__package__).joinpath("webhooks.jsonl").read_text(encoding="utf8").splitlines()


def to_event(body: str) -> dict[str, Any]:  # JSON
    """Turn a webhook's body into the event that starts ``ship-order``."""
    webhook = json.loads(body)
    session = webhook["data"]["object"]
    return {
        "name": "shop/order.placed",
        "id": webhook["id"],
        "data": {
            "id": session["metadata"]["order_id"],
            "total": session["amount_total"],
            "currency": session["currency"],
            "email": session["customer_details"]["email"],
        },
    }
