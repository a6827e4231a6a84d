import math

import pytest

from cerebro.report.wording import clean, config_text, flat, number_text, split_keys, value_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9, "0.9000"), (0, "0"), (1.0, "1.000"), (0.123456, "0.1235"), (12345.6, "12,346"), (1234.5678, "1235"),
        (-0.5, "-0.5000"), (None, "–"), (math.nan, "nan"), (math.inf, "inf"), (1e-7, "1.000e-07"),
    ],
)  # fmt: skip
def test_numbers_have_four_significant_digits(value: float | None, text: str):
    assert number_text(value) == text


def test_values_of_configs_are_short():
    assert [value_text(value) for value in (0.1 + 0.2, 3, True, None, "adam", [1, 2])] == [
        "0.3", "3", "true", "null", "adam", "[1, 2]",
    ]  # fmt: skip


def test_nested_configs_are_flat():
    assert flat({"head": {"kind": "mean", "deep": {"n": 1}}, "lr": 1}) == {
        "head.kind": "mean",
        "head.deep.n": 1,
        "lr": 1,
    }
    assert config_text({"head": {"n": 1}, "lr": 0.001}) == "head.n=1 lr=0.001"


def test_a_conditional_dimension_varies():
    assert split_keys([{"a": 1, "b": 2}, {"a": 1}]) == (("b",), {"a": 1})
    assert split_keys([]) == ((), {})


def test_true_and_one_are_different_values():
    assert split_keys([{"a": True}, {"a": 1}]) == (("a",), {})


def test_control_characters_do_not_reach_a_terminal():
    assert clean("a\x1b[2Jb\r\nc\x07") == "a [2Jb  c "
