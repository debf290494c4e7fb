"""JSON checked as text: nothing is built of it, so hostile input costs no memory and little time.

msgspec checks the grammar where it skips a value, but not the encoding, the depth and the range of numbers. Those are
checked here, because a value that passed in here must be readable everywhere later: inside records, inside lists of
them, by other processes and other languages.
"""

import re
from itertools import accumulate
from math import isinf

import msgspec

from steplog.errors import EventInvalid

MAX_DEPTH = 200  # brackets open at once; JSON readers of other languages give up not far above
SHALLOW_BYTES = 2 * MAX_DEPTH  # so short, a text cannot be nested deeper
TOO_DEEP = f"JSON is nested deeper than {MAX_DEPTH}"
WHITESPACE = b" \t\n\r"
_COMMAS_AT_ONCE = 100_000  # as many elements as an array can have and still be split in one go: 8 MB of slices

_BRACKETS = bytes({ord("["): 1, ord("{"): 1, ord("]"): 255, ord("}"): 255}.get(byte, 0) for byte in range(256))
_NO_BRACKETS = bytes(byte for byte in range(256) if not _BRACKETS[byte])
_NUMBERS = bytes(byte if chr(byte) in "+-.0123456789eE" else ord(" ") for byte in range(256))
_DIGITS = bytes(
    ord("0") if chr(byte) in "0123456789+" else ord("e") if chr(byte) in "eE" else ord(" ") for byte in range(256)
)
_LARGE_EXPONENT, _MANY_DIGITS = b"0e000", b"0" * 200
_LEAST_BEYOND = len(b"1e309")

_decode_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_element = msgspec.json.Decoder(msgspec.Raw).decode
_COMPLAINT = re.compile(r"JSON is malformed: (?P<what>.*) \(byte (?P<byte>\d+)\)")


def check(text: bytes) -> None:
    """Raise ``EventInvalid`` for a JSON value, of right grammar, that a reader could choke on.

    That is: text that is not UTF-8, more than ``MAX_DEPTH`` brackets open at once, a number beyond a double.
    """
    problem = structure_problem(text)
    if problem is not None:
        raise EventInvalid(problem)
    if _has_large_numbers(text):  # or what looks like them, in a string
        _check_numbers(_without_strings(text))


def structure_problem(text: bytes) -> str | None:
    """Say why a JSON value, of right grammar, can be put into no record: it is not UTF-8, or nested too deep."""
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            return f"JSON is not UTF-8: byte {error.start} is 0x{text[error.start]:02x}"
    if len(text) > SHALLOW_BYTES and text.count(b"[") + text.count(b"{") > MAX_DEPTH and _is_too_deep(text):
        return TOO_DEEP
    return None


def elements(body: bytes, most: int) -> tuple[list[bytes], str | None]:
    """Split a JSON array into the texts of its elements, without spaces around it.

    Stops after ``most + 1`` elements. The second value says what is malformed after the last of them, if anything is;
    an element counts with the comma or the bracket behind it.
    """
    if body.count(b",") <= _COMMAS_AT_ONCE:
        try:
            return [bytes(element) for element in _decode_elements(body)], None
        except (msgspec.DecodeError, RecursionError):
            pass  # find the elements before the place
    return _elements_one_by_one(body, most)


def _elements_one_by_one(body: bytes, most: int) -> tuple[list[bytes], str | None]:
    """Split an array that is malformed somewhere, or very long.

    Each element is skipped with the rest of the body behind it; msgspec's complaint says where that begins.
    """
    found: list[bytes] = []
    view, position = memoryview(body), 1
    while len(found) <= most:
        try:
            _decode_element(view[position:])
        except msgspec.DecodeError as error:
            complaint = _COMPLAINT.match(str(error))
            if complaint is None or complaint["what"] != "trailing characters":
                return found, _located(str(error), position)
            end = position + int(complaint["byte"]) - 1
        except RecursionError:
            return found, TOO_DEEP
        else:
            return found, "JSON is malformed: the array is not closed"
        if body[end] not in b",]":
            return found, f"JSON is malformed: a comma or the end of the array is missing (byte {end})"
        found.append(body[position:end].strip(WHITESPACE))
        position = end + 1
        if body[end] == ord("]"):
            return found, None if position == len(body) else f"JSON is malformed: trailing characters (byte {position})"
    return found, None


def _located(message: str, position: int) -> str:
    """Count the byte of msgspec's complaint from the beginning of the body."""
    complaint = _COMPLAINT.match(message)
    return (
        f"JSON is malformed: {complaint['what']} (byte {position + int(complaint['byte'])})" if complaint else message
    )


def _is_too_deep(text: bytes) -> bool:
    steps = memoryview(_without_strings(text).translate(_BRACKETS, _NO_BRACKETS)).cast("b")
    return max(accumulate(steps), default=0) > MAX_DEPTH


def _has_large_numbers(text: bytes) -> bool:
    digits = text.translate(_DIGITS)
    return _LARGE_EXPONENT in digits or _MANY_DIGITS in digits


def _check_numbers(bare: bytes) -> None:
    if not _has_large_numbers(bare):
        return
    for number in bare.translate(_NUMBERS).split():
        if len(number) >= _LEAST_BEYOND and isinf(float(number)):
            raise EventInvalid(f"JSON has a number beyond the range of a double: {number[:30].decode()}")


def _without_strings(text: bytes) -> bytes:
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text
    return b"".join(unescaped.split(b'"')[::2])
