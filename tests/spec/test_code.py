"""The identity of the user's code: what can change an answer counts, and nothing else."""

import importlib
import sys
from pathlib import Path

import pytest

from cerebro.spec.code import code_parts

SCRIPT = """
from functools import partial
import cerebro
from parts import scale

WIDTH = 3

class Net:
    depth = 2
    def forward(self, x):
        return scale(x) * WIDTH

def build(config):
    def loss(module, batch):
        return module
    return cerebro.Learner, cerebro.metrics, Net(), loss

def unused():
    return 1
"""
PARTS = "def scale(x):\n    return x + 1\n"


@pytest.fixture
def parts_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The parts of `build` in a script and a module beside it."""
    monkeypatch.syspath_prepend(tmp_path)

    def found(script: str = SCRIPT, parts: str = PARTS) -> dict[str, str]:
        for name, text in (("script", script), ("parts", parts)):
            sys.modules.pop(name, None)
            (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            return code_parts(importlib.import_module("script").build)
        finally:
            sys.dont_write_bytecode = before
            for name in ("script", "parts"):
                sys.modules.pop(name, None)

    return found


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_everything_that_build_reaches_is_a_part(parts_of):
    assert set(parts_of()) == {"script.build", "script.Net", "script.Net.forward", "parts.scale"}


def test_cerebro_itself_is_not_a_part_whatever_of_it_is_loaded(parts_of):
    before = parts_of()
    import cerebro

    assert cerebro.Learner
    assert cerebro.metrics
    assert parts_of() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    return 1", "    return 2"),
        ("WIDTH = 3", "WIDTH = 3  # wide"),
        ("    depth", "    # how deep\n\n    depth"),
    ],
)
def test_what_cannot_change_an_answer_is_no_change(parts_of, old, new):
    assert changed(parts_of(), parts_of(SCRIPT.replace(old, new))) == set()


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("WIDTH = 3", "WIDTH = 4", {"script.Net.forward"}),
        ("depth = 2", "depth = 3", {"script.Net"}),
        ("scale(x) * WIDTH", "scale(x) + WIDTH", {"script.Net.forward"}),
        ("return module\n", "return batch\n", {"script.build"}),
    ],
)
def test_a_change_is_named(parts_of, old, new, names):
    assert changed(parts_of(), parts_of(SCRIPT.replace(old, new))) == names


def test_a_module_beside_the_script_counts(parts_of):
    assert changed(parts_of(), parts_of(parts=PARTS.replace("x + 1", "x + 2"))) == {"parts.scale"}
