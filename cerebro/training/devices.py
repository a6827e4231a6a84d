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


def steady_cudnn(steady: bool = True) -> bool:
    """Let cuDNN choose only kernels that add up in one order, from here on; gives whether it did so before."""
    before: bool = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = steady
    return before


def check_bf16(device: str) -> None:
    """Check that `cpu` or `cuda` computes in bfloat16 itself: where it is emulated it is slower than float32.

    Raises:
        SpecError: it does not.
    """
    if device == "cuda":
        found = torch.cuda.get_device_capability()
        if found < _CUDA_BF16:
            wanted, has = (".".join(map(str, version)) for version in (_CUDA_BF16, found))
            raise SpecError(
                f"Experiment.precision: 'bf16' needs a GPU of capability {wanted}, and {torch.cuda.get_device_name()} "
                f"has {has}; use 'float32'"
            )
    elif not bf16_features():
        raise SpecError(
            f"Experiment.precision: 'bf16' needs a processor with one of {', '.join(_CPU_BF16)}, and this one has "
            "none; use 'float32'"
        )


def bf16_features() -> list[str]:
    """The features of this machine's processor that compute in bfloat16."""
    capabilities = torch.cpu.get_capabilities()
    return [feature for feature in _CPU_BF16 if capabilities.get(feature)]


_CUDA_BF16 = (8, 0)
_CPU_BF16 = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
