"""Every error that Cerebro raises on purpose.

    CerebroError
    ├── SpecError      what the user declared is wrong           (before anything runs)
    ├── DataError      a source, dataset or shard is wrong       (before anything runs)
    ├── PlanError      the plan does not fit this machine        (before anything runs)
    ├── StoreError     the store is missing, held or damaged
    ├── ModelError     the user's code failed                    (this model only)
    ├── EngineError    infrastructure failed                     (the unit may be retried)
    └── InternalError  our own mistake                           (please report it)

A message says what was asked, the value, what is allowed, and what to do.
"""


class CerebroError(Exception):
    """The root: `except cerebro.CerebroError` catches all of the below and nothing else."""


class SpecError(CerebroError):
    """What the user declared is wrong; the message names the field."""


class DataError(CerebroError):
    """A source, a dataset or a shard is wrong; the message names the column or file."""


class PlanError(CerebroError):
    """The plan cannot be run here; the message gives what it needs and what there is."""


class StoreError(CerebroError):
    """The store is missing, held by another process, or damaged; the message names the file."""


class ModelError(CerebroError):
    """The user's code failed while training one model; the other models go on."""


class EngineError(CerebroError):
    """The infrastructure under a unit failed; the unit itself is not to blame."""


class InternalError(CerebroError):
    """An invariant of Cerebro itself does not hold: a bug of ours."""
