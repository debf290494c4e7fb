"""``docs/reference/rest.md``, made of the routes that the server has and of the structs that it answers with."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from steplog.engine.operations import ErrorInfo
from steplog.engine.records import RunRef, Skip, StepRef
from steplog.history.views import RUN_STATES, WaitsFor
from steplog.server import answers, event_api, http

from .api_reference import markdown

HEAD = """# REST API

Every path that a server answers; `python -m tests.documentation` writes this page. Sending events, with examples, is in
[events](../events.md). Bodies are JSON, times RFC 3339 in UTC with milliseconds.

`dev` takes any event key that is not empty, and asks for nothing else. In `start` the event API wants one of the event
keys, in the path, and everything below `/v1` and `/invoke` the signing key, as it is or hashed, else 401:
`Authorization: Bearer signkey-…`.

A read gives what was accepted and decided before it was asked for. Where the history does not follow within 2 s,
`metadata.stale` is `true`.
"""


class Endpoint(NamedTuple):
    """What one path does, and what its answer holds."""

    method: str
    path: str
    text: str
    answer: str


ENVELOPE = "[Envelope](#envelope)"
ENDPOINTS = [
    Endpoint("GET", "/", "The server's name and version, as text.", ""),
    Endpoint("GET", "/health", "That it answers, and who it is; without a key.", "[Health](#health)"),
    Endpoint(
        "POST", "/e/{key}",
        "Accepts one [event](../events.md#fields), or an array of at most 5,000. They are durable when it answers.",
        "[Accepted](#accepted)",
    ),
    Endpoint("GET", "/v1/events/{id}", "An event by its internal id.", f"{ENVELOPE} of an [Event](#event)"),
    Endpoint("GET", "/v1/events/{id}/runs", "The runs that it started.", f"{ENVELOPE} of a list of [Run](#run)"),
    Endpoint(
        "GET", "/v1/runs",
        "Runs, newest first. `status`, which may be given several times, is a [state](#run); `function` is an id; "
        "`limit` is 20 unless given, at most 100; `cursor` is that of the page before.",
        f"{ENVELOPE} of a list of [Run](#run), with a [Page](#page)",
    ),
    Endpoint(
        "GET", "/v1/runs/{id}",
        "A run. `wait=30s` answers when it has ended, or with its present state when the time is up, at most 60 s.",
        f"{ENVELOPE} of a [Run](#run)",
    ),
    Endpoint("GET", "/v1/runs/{id}/steps", "Its steps with their attempts.", f"{ENVELOPE} of [Steps](#steps)"),
    Endpoint(
        "POST", "/invoke/{function}",
        'Starts one function, by its id `<app>-<function>`, with `{"data": {…}, "user"?: {…}}`, whatever triggers it. '
        "With the header `x-inngest-event-id-seed` the same call starts one run, however often it is sent.",
        '`{"id", "status": 200}`: the internal id of its event',
    ),
    Endpoint(
        "POST", "/v1/signals", 'Sends a signal, `{"signal": "…", "data"?: …}`. 404 where no run waits for it.',
        '`{"data": {"run_id"}, "run_id"}`: the run that goes on',
    ),
]  # fmt: skip

REFUSALS = """## Refusals

Those of the event API are in [events](../events.md#limits-and-refusals). Every other one is a [Problem](#problem).

| status | when |
|---|---|
| 400 | an id, a duration, a filter, a cursor or a body is not of the form that it must have |
| 401 | the signing key is missing or unknown |
| 403 | `dev` is addressed by a name that is not this machine's |
| 404 | there is no such run, event, function or path; no run waits for the signal |
| 405 | the path has another method |
| 413 | a body is larger than `[limits] event_size` |
| 503 | too much waits, or the log cannot be written; `Retry-After` says when to send again |
"""
JSON_KINDS = {
    "str": "string", "int": "number", "bool": "true or false", "None": "null", "object": "any", "msgspec.Raw": "any",
    "RunState": "string",
}  # fmt: skip
STRUCTS: list[type[msgspec.Struct]] = [
    event_api.Accepted, answers.Envelope, answers.Metadata, answers.Page, answers.Event, answers.Run, answers.Steps,
    answers.Step, answers.Attempt, WaitsFor, RunRef, StepRef, Skip, ErrorInfo, answers.Health, http.Problem,
]  # fmt: skip


def build() -> str:
    """Write the page."""
    table = ["| | | answer |", "|---|---|---|"]
    table += [f"| `{each.method} {each.path}` | {each.text} | {each.answer} |" for each in ENDPOINTS]
    structs = ["\n".join(_struct(struct)) for struct in STRUCTS]
    return "\n".join([HEAD, "## Paths\n", *table, "", REFUSALS, "## Answers\n", *structs])


def _struct(struct: type[msgspec.Struct]) -> Iterator[str]:
    source = textwrap.dedent(inspect.getsource(struct))
    lines, (tree,) = source.splitlines(), ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    yield f"### {struct.__name__}\n"
    yield markdown(struct.__doc__ or "")
    yield "| field | | |"
    yield "|---|---|---|"
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            name, kind = ast.unparse(node.target), ast.unparse(node.annotation).replace("'", "")
            comment = lines[node.lineno - 1].partition("  # ")[2]
            may_be_missing = "UnsetType" in kind or (struct.__struct_config__.omit_defaults and node.value is not None)
            text = " · ".join(f"`{state}`" for state in RUN_STATES) if kind == "RunState" else markdown(comment).strip()
            yield f"| `{name}`{'?' if may_be_missing else ''} | {_json_kind(kind)} | {text} |"
    yield ""


def _json_kind(kind: str) -> str:
    """What JSON has for an annotation."""
    text = re.sub(r"(?:tuple|list)\[(\w+)(?:, \.\.\.)?\]", r"array of \1", kind.replace(" | msgspec.UnsetType", ""))
    for name, word in JSON_KINDS.items():
        text = re.sub(rf"(?<![\w.]){re.escape(name)}(?!\w)", word, text)
    return text.replace(" | ", " or ")
