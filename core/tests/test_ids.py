"""Identifiers: the vectors of the wire, and what is derived from what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steplog.engine.ids import (
    MAX_ULID_MS,
    SLOTS,
    decode_ulid,
    encode_ulid,
    hash16,
    run_id,
    run_slot,
    slot_of,
    step_wire_id,
    ulid,
    ulid_ms,
)

ENTROPY = bytes(range(10))  # events.md §2.6
AT_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("index", "text"),
    [(0, "01HF7YAT00000G40R40M30E209"), (1, "01HF7YAT00000G40R40M30E20A"), (2, "01HF7YAT00000G40R40M30E20B")],
)
def test_a_ulid_prints_as_the_wire_has_it(index: int, text: str) -> None:
    last = int.from_bytes(ENTROPY[6:], "big") + index
    assert encode_ulid(ulid(AT_MS, ENTROPY[:6] + last.to_bytes(4, "big"))) == text


@given(st.binary(min_size=16, max_size=16))
def test_a_ulid_is_read_back_in_either_case(value: bytes) -> None:
    text = encode_ulid(value)
    assert len(text) == 26
    assert decode_ulid(text) == decode_ulid(text.lower()) == value


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_printed_ulids_sort_like_their_bytes(a: bytes, b: bytes) -> None:
    assert (encode_ulid(a) < encode_ulid(b)) == (a < b)


@pytest.mark.parametrize(
    "text",
    ["", "01HF7YAT00000G40R40M30E20", "01HF7YAT00000G40R40M30E2099", "01HF7YAT00000G40R40M30E20I", "8" + "0" * 25,
     "01HF7YAT00000G40R40M30E20é", "\0" * 26, "+1HF7YAT00000G40R40M30E209"],
)  # fmt: skip
def test_other_text_is_no_ulid(text: str) -> None:
    with pytest.raises(ValueError, match="ULID"):
        decode_ulid(text)


@given(st.text())
def test_what_reads_as_a_ulid_prints_as_it_was(text: str) -> None:
    try:
        value = decode_ulid(text)
    except ValueError:
        return
    assert encode_ulid(value) == text.upper()


@given(st.integers(0, MAX_ULID_MS), st.binary(min_size=10, max_size=10))
def test_a_ulid_begins_with_its_time(at_ms: int, entropy: bytes) -> None:
    assert ulid_ms(ulid(at_ms, entropy)) == at_ms


@given(st.lists(st.binary(max_size=6), min_size=2, max_size=4), st.lists(st.binary(max_size=6), min_size=2, max_size=4))
def test_a_hash_knows_where_its_parts_end(a: list[bytes], b: list[bytes]) -> None:
    assert (hash16(*a) == hash16(*b)) == (a == b)


_functions = st.text(min_size=1, max_size=20)
_origins = st.binary(min_size=16, max_size=16)


@given(st.integers(0, MAX_ULID_MS), st.integers(0, SLOTS - 1), st.integers(0, 9), _functions, _origins)
def test_a_run_id_holds_its_time_and_its_slot(at_ms: int, slot: int, env: int, function: str, origin: bytes) -> None:
    run = run_id(at_ms, slot, env, function, origin)
    assert (len(run), ulid_ms(run), run_slot(run)) == (16, at_ms, slot)
    assert run == run_id(at_ms, slot, env, function, origin), "deciding again creates the same run"


def test_run_ids_differ_by_environment_function_and_origin() -> None:
    made = {run_id(AT_MS, 7, env, function, origin) for env in (0, 1) for function in "fg" for origin in (b"a", b"b")}
    assert len(made) == 8


@given(st.binary(min_size=16, max_size=16))
def test_a_slot_is_twelve_bits_of_a_hash(digest: bytes) -> None:
    assert slot_of(digest) == int.from_bytes(digest[:2], "big") >> 4


@pytest.mark.spec("PY-26", "DUR-04")
@pytest.mark.parametrize(
    ("step", "occurrence", "wire_id"),
    [
        ("my-step", 0, "8376129f22207d6e1acaa1c92de099dcb1ba24db"),
        ("my-step", 1, "93de82859c2f0cfdc32855d8a527c8832a78b414"),
        ("complete", 0, "0737c22d3bfae812339732d14d8c7dbd6dc4e09c"),
    ],
)
def test_a_step_is_hashed_as_the_sdks_do(step: str, occurrence: int, wire_id: str) -> None:
    assert step_wire_id(step, occurrence) == wire_id


@given(st.text(st.characters(), max_size=30), st.integers(0, 3))
def test_every_text_can_name_a_step(step: str, occurrence: int) -> None:
    assert len(step_wire_id(step, occurrence)) == 40
