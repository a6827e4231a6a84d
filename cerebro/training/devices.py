"""Which devices this machine has, and how many threads compute."""

import torch

from cerebro.errors import SpecError


def choose_device(wanted: str) -> tuple[str, int | None]:
    """The device for `auto`, `cpu` or `cuda`, and the number of workers it allows (None: as many as wanted).

    Raises:
        SpecError: another word, or a GPU was asked for and there is none.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise SpecError(f"device: {wanted!r} is not one of auto, cpu, cuda")
    gpus = torch.cuda.device_count() if wanted != "cpu" else 0
    if wanted == "cuda" and not gpus:
        raise SpecError("device: 'cuda' was asked for, but torch sees no GPU here; use 'auto' or 'cpu'")
    return ("cuda", gpus) if gpus else ("cpu", None)


def one_thread() -> int:
    """Train with one thread from here on (two give other bits); gives the number of threads before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before


def set_threads(count: int) -> None:
    """Compute with `count` threads from here on."""
    torch.set_num_threads(count)
