"""``docs/client.md``: its example runs, its tables are right."""

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import steplog
from steplog import Client, errors
from steplog.client import address, api

from .place import placed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()
ORDER = {"id": "o1", "total": 4200, "email": "ada@example.com"}


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
    with placed(tmp_path, (ROOT / "examples" / "orders.py").read_text()) as place:
        monkeypatch.setenv("STEPLOG_URL", place.url)
        names: dict[str, Any] = {}
        exec(example, names)
        assert names["place_and_wait"](ORDER) == {"receipt": "charge-o1", "parcel": "pack-o1"}
        assert len(asyncio.run(names["place"](ORDER))) == 26
        names["client"].close()


def test_every_method_parameter_and_variable_is_named() -> None:
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`\n]+`", PAGE))))
    methods = {name for name in vars(Client) if not name.startswith("_")} - {"url"}
    variables = set(re.findall(r"(?:STEPLOG|INNGEST)_\w+", inspect.getsource(address.address)))
    assert methods | variables | inspect.signature(Client).parameters.keys() <= named


def test_every_error_is_one() -> None:
    table = PAGE.partition("## Errors")[2]
    named = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    assert len(named) > 5
    assert all(issubclass(getattr(errors, name), steplog.SteplogError) for name in named)


def test_the_numbers_are_those_of_the_code() -> None:
    assert (api.TIMEOUT_S, api.RETRIES, address.DEFAULT_URL) == (10, 4, "http://127.0.0.1:8288")
    pauses = [api.BACKOFF_S * 2**attempt for attempt in range(api.RETRIES)]
    assert "{:g}, {:g}, {:g} and {:g} s".format(*pauses) in PAGE
    least_s = sum(min(api.BACKOFF_S * 2**attempt, api.MOST_BACKOFF_S) for attempt in range(api.WAITING_RETRIES))
    assert 30 < least_s < 40
