"""The composition root: wires the layers together and decides nothing itself."""

from cerebro.session.experiment import Experiment
from cerebro.session.export import load
from cerebro.session.handle import Handle, connect
from cerebro.session.result import Result

__all__ = ["Experiment", "Handle", "Result", "connect", "load"]
