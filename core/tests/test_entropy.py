"""Entropy: no bytes are given out twice."""

from steplog.entropy import ENTROPY_BYTES, Entropy

BLOCKS_AND_A_HALF = 1_000


def test_it_gives_out_bytes_of_one_length_and_never_the_same() -> None:
    source = Entropy()
    taken = [source.take() for _ in range(BLOCKS_AND_A_HALF)]
    assert {len(bytes_) for bytes_ in taken} == {ENTROPY_BYTES}
    assert len(set(taken)) == BLOCKS_AND_A_HALF


def test_two_sources_have_nothing_in_common() -> None:
    one, other = Entropy(), Entropy()
    assert one.take() != other.take()
