"""The identity of the user's code: what `build` can reach, and a digest of each part.

Two runs have the same code if every function and class that `build` refers to, directly or through others, compiles to
the same instructions and constants. Comments, formatting and code that `build` does not reach do not count. Installed
packages are not followed, and neither is Cerebro; their versions are part of the numerics fingerprint.
"""

import functools
import inspect
import os
import site
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cerebro.ids import digest

Parts = dict[str, str]

_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, tuple)


def code_parts(function: Callable[..., Any]) -> Parts:
    """The digest of each function, class and constant that `function` reaches, by qualified name."""
    parts: Parts = {}
    home = _module(function)
    pending: list[tuple[str, Any]] = [(_name(function), function)]
    while pending:
        name, value = pending.pop()
        if name in parts or not (_module(value) is home or _is_own(_module(value))):
            continue
        described, reached = _describe(value)
        parts[name] = digest(described)
        pending.extend(reached)
    return dict(sorted(parts.items()))


def _describe(value: Any) -> tuple[Any, list[tuple[str, Any]]]:
    """What identifies a value, and what else it reaches."""
    match value:
        case functools.partial():
            settings = {name: _constant(argument) for name, argument in value.keywords.items()}
            return ["partial", [_constant(argument) for argument in value.args], settings], [_named(value.func)]
        case types.FunctionType():
            bound = [_constant(default) for default in (value.__defaults__ or ())]
            keywords = {name: _constant(default) for name, default in (value.__kwdefaults__ or {}).items()}
            reached = list(referred(value))
            constants = {name: _constant(item) for name, item in reached if isinstance(item, _CONSTANTS)}
            return [_code(value.__code__), bound, keywords, constants], [
                (n, v) for n, v in reached if n not in constants
            ]
        case type():
            members = {
                name: member for name, member in vars(value).items() if not name.startswith("__") or callable(member)
            }
            functions = [(f"{_name(value)}.{n}", _unwrapped(m)) for n, m in members.items() if _is_function(m)]
            constants = {n: _constant(m) for n, m in sorted(members.items()) if isinstance(m, _CONSTANTS)}
            bases = [_name(base) for base in value.__bases__]
            return ["class", bases, constants], [*functions, *(_named(base) for base in value.__bases__)]
        case types.MethodType():
            return ["method", _name(value)], [_named(value.__func__), _named(type(value.__self__))]
        case _:
            return ["instance", _constant(value)], [_named(type(value))]


def referred(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals and closure variables that a function's code names, by name."""
    names = set(_code_names(function.__code__))
    for name in sorted(names & function.__globals__.keys()):
        value = function.__globals__[name]
        if isinstance(value, types.ModuleType):
            # `import nets` then `nets.Net`: what the code names of an own module counts as reached.
            members = vars(value) if _is_own(value) else {}
            yield from ((f"{value.__name__}.{n}", members[n]) for n in sorted(names & members.keys()))
        else:
            constant = isinstance(value, _CONSTANTS)
            yield f"{_module_name(function.__module__)}.{name}" if constant else _name(value), value
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"{_name(function)}.<{name}>", cell.cell_contents
        except ValueError:  # an empty cell: the variable is not assigned yet
            continue


def _code_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code_names(constant)


def _code(code: types.CodeType) -> Any:
    constants = [_code(c) if isinstance(c, types.CodeType) else _constant(c) for c in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]


def _constant(value: Any) -> Any:
    match value:
        case frozenset() | set():
            return ["set", sorted(map(repr, value))]
        case tuple() | list():
            return [_constant(item) for item in value]
        case Mapping():
            return {str(key): _constant(item) for key, item in value.items()}
        case None | bool() | int() | float() | complex() | str() | bytes():
            return repr(value)
        case _:
            return _name(value)


def is_own(value: Any) -> bool:
    """Whether a function or class is the user's, rather than of an installed package or of Cerebro."""
    return _is_own(_module(value))


def _is_own(module: types.ModuleType | None) -> bool:
    """Whether a module is the user's, rather than of an installed package or of Cerebro."""
    file = getattr(module, "__file__", None)
    if file is None:  # a notebook or an interactive session; the built-in modules have no file either
        return getattr(module, "__name__", "__main__") == "__main__"
    return not file.startswith(_installed())


def _module(value: Any) -> types.ModuleType | None:
    return inspect.getmodule(_definition(value))


@functools.cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    cerebro = str(Path(__file__).parent.parent)
    return tuple(
        folder + os.sep
        for folder in (
            *(paths[kind] for kind in ("stdlib", "purelib", "platlib")),
            *site.getsitepackages(),
            site.getusersitepackages(),
            cerebro,
        )
    )


def _definition(value: Any) -> Any:
    if isinstance(value, functools.partial):
        return _definition(value.func)
    return value if isinstance(value, type | types.FunctionType | types.MethodType) else type(value)


def _name(value: Any) -> str:
    definition = _definition(value)
    module = _module_name(getattr(definition, "__module__", None))
    suffix = ".<partial>" if isinstance(value, functools.partial) else ""
    return f"{module}.{getattr(definition, '__qualname__', repr(definition))}{suffix}"


def _module_name(module: str | None) -> str:
    """A module's name; a script has the same one whether it is run or imported."""
    if module != "__main__":
        return module or "builtins"
    file = getattr(sys.modules["__main__"], "__file__", None)
    return Path(file).stem if file else "notebook"


def _named(value: Any) -> tuple[str, Any]:
    return _name(value), value


def _is_function(member: Any) -> bool:
    return isinstance(_unwrapped(member), types.FunctionType)


def _unwrapped(member: Any) -> Any:
    return getattr(member, "__func__", getattr(member, "fget", member))
