"""Times and numbers in words: what is written can be read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzvideo.errors import SettingsError
from vzvideo.words import describe_cropped, format_duration, format_time, parse_time, pluralize


@pytest.mark.parametrize(
    ("text", "time_s"), [("83.5", 83.5), ("1:23.5", 83.5), ("0:01:23.5", 83.5), ("2:00:00", 7200)]
)
def test_times_are_read(text: str, time_s: float) -> None:
    assert parse_time(text) == time_s


@pytest.mark.parametrize("text", ["", "soon", "1:", "1:2x"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="give seconds, or m:s, or h:m:s"):
        parse_time(text)


@given(st.floats(0, 400_000))
def test_a_clock_can_be_read_again(time_s: float) -> None:
    """By what `--start` and `--end` take, and never later than the time itself."""
    read = parse_time(format_time(time_s))
    assert read <= time_s < read + 1
    read = parse_time(format_time(time_s, tenths=True))
    assert read == pytest.approx(time_s, abs=0.0501)


@given(st.floats(0, 400_000), st.booleans())
def test_a_clock_never_shows_sixty(time_s: float, tenths: bool) -> None:
    hours, minutes, rest = ["0", "0", *format_time(time_s, tenths).split(":")][-3:]
    assert int(hours) >= 0
    assert int(minutes) < 60
    assert float(rest) < 60
    assert len(rest.partition(".")[0]) == 2


@pytest.mark.parametrize(
    ("time_s", "text"),
    [
        (0.0288, "0.029 s"), (2.0, "2 s"), (45.4, "45 s"), (59.7, "60 s"), (61, "1 min"),
        (3599, "1 h 00 min"), (3700, "1 h 02 min"), (0, "0 s"),
    ],
)  # fmt: skip
def test_how_long_something_takes(time_s: float, text: str) -> None:
    assert format_duration(time_s) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, ""), (0.0, ""), (0.04, ""), (0.1234, "12 % of each frame cropped"),
        (0.25, "25 % of each frame cropped"),
        (0.4375, "44 % of each frame cropped (--fit pad keeps it)"),
    ],
)  # fmt: skip
def test_what_is_cropped(share: float | None, text: str) -> None:
    assert describe_cropped(share) == text


def test_one_is_not_many() -> None:
    assert [pluralize(n, "row") for n in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]
