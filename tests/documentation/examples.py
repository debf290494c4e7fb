"""The examples of the documentation, as modules that tests can use."""

import sys
from itertools import count
from types import ModuleType
from typing import Any

from .pages import DOCS, snippets

_numbers = count(1)


def example(page: str, heading: str, **given: Any) -> Any:
    """The module that the Python below a heading makes; ``given`` are names of the reader's own that it uses."""
    (code,) = [each for each in snippets(DOCS / page) if (each.heading, each.language) == (heading, "python")]
    module = ModuleType(f"example_{next(_numbers)}")
    sys.modules[module.__name__] = module  # dataclasses look themselves up
    vars(module).update(given)
    exec(compile(code.text, str(code), "exec"), vars(module))
    return module
