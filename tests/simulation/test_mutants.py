"""The simulation finds what it must: every deliberate fault, within so many seeds.

``python -m tests.simulation --mutants`` prints the table, with what the check said.
"""

from pathlib import Path

import msgspec
import pytest

import steplog.engine
from steplog.engine.state import State

from .mutants import ALL_MUTANTS
from .mutation import Mutant, MutantStale, hunt, mutated
from .workers import ROOT, hunted

SEEDS = 300
PROMISES = ("P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9")  # docs/proof.md says where the others are shown
WITHOUT = {
    "__init__": "is empty",
    "cron_fields": "reads texts: core/tests/test_cron.py holds it against another implementation",
    "effects": "has data only",
    "failures": "words for records only: core/tests/test_engine_events.py and test_engine_lookback.py",
    "messages": "has data only",
    "operations": "has data only",
    "placing": "is for who moves a log: tests/kafka/test_migrate.py moves every kind of owner",
    "records": "has data only",
}
GET = Mutant(name="none", promise="state", at="engine.state:State.get", old="return None", new="return b''")


def test_every_mutant_is_found() -> None:
    found = {hunt.name: hunt.seed for hunt in hunted([mutant.name for mutant in ALL_MUTANTS], SEEDS, is_fresh=False)}
    assert [name for name, seed in found.items() if seed is None] == []
    assert found.keys() == {mutant.name for mutant in ALL_MUTANTS}


def test_every_promise_and_every_module_of_the_engine_has_one() -> None:
    modules = {path.stem for path in Path(steplog.engine.__path__[0]).glob("*.py")}
    touched = {mutant.at.partition(":")[0].removeprefix("engine.") for mutant in ALL_MUTANTS}
    assert modules - touched == WITHOUT.keys()
    assert set(PROMISES) <= {mutant.promise for mutant in ALL_MUTANTS}
    assert len({mutant.name for mutant in ALL_MUTANTS}) == len(ALL_MUTANTS)


def test_the_page_names_every_mutant() -> None:
    page = (ROOT / "docs" / "proof.md").read_text()
    assert [mutant.name for mutant in ALL_MUTANTS if f"| {mutant.name} |" not in page] == []


def test_a_mutant_whose_source_has_changed_fails_loudly() -> None:
    with pytest.raises(MutantStale, match=r"none: engine.state:State.get has 'return None' 0 times, not once"):
        hunt(GET, 1)
    twice = msgspec.structs.replace(GET, old="in self._")
    with pytest.raises(MutantStale, match="2 times, not once"):
        hunt(twice, 1)


def test_a_mutant_lasts_as_long_as_its_hunt() -> None:
    code = State.get.__code__
    with mutated(msgspec.structs.replace(GET, old="key in self._pending", new="False")):
        assert State.get.__code__ is not code
    assert State.get.__code__ is code
