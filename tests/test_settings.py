"""Checks that all settings share."""

import pytest

from sfumato.settings import check_whole, is_whole


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, True), (0, True), (-1, False), (True, False), (2.0, False), ("3", False), (None, False), (2**70, True)],
)
def test_whole_numbers_are_ints_and_no_flags(value, expected):
    assert is_whole(value, least=0) is expected


def test_a_count_says_what_came_and_where_it_begins():
    check_whole("steps", 1)
    for value in (1, True, 2.5, "4"):
        with pytest.raises(ValueError, match=rf"steps must be a whole number from 2 up; got {value!r}"):
            check_whole("steps", value, least=2)
