"""What a step costs: estimated before, measured after."""

from dataclasses import dataclass

from cerebro.quantities import bytes_text, seconds_text


@dataclass(frozen=True, slots=True)
class Cost:
    """Wall-clock seconds, the largest memory in use at once, the bytes of states copied by hops, and of shards read."""

    seconds: float
    peak_bytes: int
    moved_bytes: int
    read_bytes: int = 0

    def text(self, word: str) -> str:
        """`est 41 min   peak 9.8 GiB   moved 38.0 GiB`."""
        return (
            f"{word} {seconds_text(self.seconds)}   peak {bytes_text(self.peak_bytes)}   "
            f"moved {bytes_text(self.moved_bytes)}"
        )


@dataclass(frozen=True, slots=True)
class Derivation:
    """Columns that a model derives of those of the dataset, by a view or by frozen sub-modules."""

    key: str
    """Equal where the computation is the same."""
    name: str
    note: str = ""
    """Why it is done in each batch instead, if it is."""
    row_seconds: float = 0.0
    row_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Together:
    """What a pilot says of models that were trained in one pass, and each alone, on the same batches."""

    models: int
    why_not: str = ""
    """Why they cannot be trained in one pass with the bits that each has alone, if they cannot."""
    train_gain: float = 1.0
    """How many times as fast a batch of all is in one pass."""
    valid_gain: float = 1.0
    first_seconds: float = 0.0
    """What the first visits of a pass on a worker take beside their batches, which are noted and played then."""
    stacked_train_gain: float = 0.0
    """The same of kernels that take all models at once and may give other bits; 0 where they were not tried."""
    stacked_valid_gain: float = 0.0
    stacked_first_seconds: float = 0.0
    deviation: float = 0.0
    """After the pilot's steps with those, the largest difference of a parameter's elements, relative to its largest."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What a pilot says of another way to compute the same steps, against the reference."""

    name: str
    gain: float
    """How many times as fast a batch is."""
    deviation: float
    """After the pilot's steps, the largest difference of a parameter's elements, relative to its largest element."""

    def __str__(self) -> str:
        return f"{self.name}, {self.gain:.2f} × as fast, deviation {self.deviation:.0e}"


@dataclass(frozen=True, slots=True)
class Profile:
    """What a pilot of a few batches says of one architecture."""

    signature: str
    """Equal for configs whose units cost the same."""
    architecture: str
    parameters: int
    optimizer: str
    batch_size: int
    eval_batch_size: int
    drop_last: bool
    metrics: tuple[str, ...]
    state_bytes: int = 0
    train_batch_seconds: float = 0.0
    valid_batch_seconds: float = 0.0
    build_seconds: float = 0.0
    """What `build` takes."""
    trace_seconds: float = 0.0
    """What it takes to find out what a model derives."""
    first_seconds: float = 0.0
    """What the first visit on a worker takes beside its batches."""
    noting_seconds: float = 0.0
    """What it takes on a worker to note the batches of a model that are then played."""
    call_seconds: float = 1e-6
    """What calling a kernel takes that has nothing to do: how fast this machine is where nothing is computed."""
    peak_bytes: int = 0
    """The largest size of a worker in the pilot."""
    impure_tensor: str | None = None
    """The first tensor that two runs of the same batches disagree on, if any."""
    derived: tuple[Derivation, ...] = ()
    """What it derives; the seconds of a batch are those of the rest."""
    derived_row_seconds: float = 0.0
    """What that costs a row of a visit, as it is planned to be done."""
    derives_anew: bool = False
    """Whether that is to be on each visit, and so once for all models of a pass; else it is once for all visits."""
    rewrites: tuple[Rewrite, ...] = ()
    """Other ways to compute its steps that were tried: what bf16 comes to, where that was asked for."""
    together: Together | None = None
    """What is gained by training several models of this signature in one pass, if that was tried."""

    @property
    def unit_seconds(self) -> float:
        """What a unit takes beside its batches: messages, keyed generators, and the copies of the state."""
        return UNIT_CALLS * self.call_seconds + self.state_bytes / HOP_BYTES_PER_SECOND

    def train_seconds(self, rows: int) -> float:
        """Nominal seconds of one training visit of a shard."""
        batches = rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)
        return batches * self.train_batch_seconds + rows * self.derived_row_seconds + self.unit_seconds

    def valid_seconds(self, rows: int) -> float:
        """Nominal seconds of one validation visit of a shard."""
        batches = -(-rows // self.eval_batch_size)
        return batches * self.valid_batch_seconds + rows * self.derived_row_seconds + self.unit_seconds

    def train_gain(self, gain: float, models: int) -> float:
        """How many times as fast a training visit is in a pass of so many models, in which batches are by `gain`."""
        return self._visit_gain(self.train_batch_seconds / self.batch_size, gain, models)

    def valid_gain(self, gain: float, models: int) -> float:
        """The same of a validation visit."""
        return self._visit_gain(self.valid_batch_seconds / self.eval_batch_size, gain, models)

    def _visit_gain(self, row_seconds: float, gain: float, models: int) -> float:
        derived = self.derived_row_seconds
        if not derived:
            return gain
        return (row_seconds + derived) / (row_seconds / gain + derived / (models if self.derives_anew else 1))


UNIT_CALLS = 1200
"""In so many calls of a kernel a unit is told, begun, and written down."""
HOP_BYTES_PER_SECOND = 1e9
"""A state is copied twice, hashed, and written to the disk behind the units, by a process that the workers wait for or
share the cores with."""
