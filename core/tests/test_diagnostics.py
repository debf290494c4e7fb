"""What steplog's processes log, for people and for programs."""

import json
import logging
import re
import sys

from steplog.diagnostics import JsonLines, Lines


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    logger = logging.getLogger("steplog.turns")
    return logger.makeRecord(logger.name, logging.WARNING, "", 0, message, args, None, extra=extra)


def test_a_line_for_people_has_time_level_message_and_facts() -> None:
    line = Lines().format(record("log unavailable%s", " for 5 s", fields={"reason": "disk full", "tries": 9}))
    assert re.fullmatch(r"\d\d:\d\d:\d\d  WARNING log unavailable for 5 s  \(reason: disk full, tries: 9\)", line)
    assert Lines().format(record("plain")).endswith("  WARNING plain")


def test_a_line_for_programs_is_one_object() -> None:
    line = JsonLines().format(record("no\nluck", fields={"reason": OSError("é")}, run_id="01JD"))
    told = json.loads(line)
    assert told.pop("at").endswith("Z")
    assert told == {
        "level": "warning", "logger": "steplog.turns", "message": "no\nluck", "run_id": "01JD", "reason": "é",
    }  # fmt: skip
    assert "\n" not in line


def test_an_error_comes_with_its_traceback() -> None:
    failed = record("request failed")
    try:
        raise ValueError("oops")
    except ValueError:
        failed.exc_info = sys.exc_info()
    assert "ValueError: oops" in json.loads(JsonLines().format(failed))["error"]
    assert Lines().format(failed).endswith("ValueError: oops")
