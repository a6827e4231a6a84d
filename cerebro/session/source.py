"""Loading the file in which an experiment is declared."""

import importlib.util
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from cerebro.errors import SpecError
from cerebro.spec.experiment import ExperimentSpec

_NAME = "experiment"


def load_experiment(file: Path) -> Any:
    """The `experiment` that a Python file defines; the file is run, but not as `__main__`.

    Raises:
        SpecError: no such file, it fails, or it defines no `experiment`.
    """
    if not file.is_file():
        raise SpecError(f"{file} is not a file; give a Python file that defines `experiment = cerebro.Experiment(...)`")
    module = _loaded(file.resolve())
    experiment = getattr(module, _NAME, None)
    if not isinstance(experiment, ExperimentSpec):
        found = "nothing of that name" if experiment is None else f"a {type(experiment).__name__}"
        raise SpecError(f"{file} must define `{_NAME} = cerebro.Experiment(...)`; it has {found}")
    return experiment


def _loaded(file: Path) -> ModuleType:
    """The module of a file, under the file's own name, as `import` would give it."""
    name = file.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(file):
        return known
    if known is not None or name in sys.stdlib_module_names:
        raise SpecError(f"{file} has the name of a Python module that is in use, {name!r}: rename the file")
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise SpecError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(file.parent))
    cloudpickle.register_pickle_by_value(module)  # the workers need not find the file
    try:
        with redirect_stdout(sys.stderr):  # what the file prints is not the answer of a command
            spec.loader.exec_module(module)
    except SpecError:
        raise
    except Exception as error:
        raise SpecError(f"{file} failed while it was loaded: {type(error).__name__}: {error}") from error
    return module
