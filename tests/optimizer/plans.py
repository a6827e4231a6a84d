"""Plans to try rules on."""

from collections.abc import Mapping
from typing import Any

from cerebro.optimizer.given import Given, Means, Work
from cerebro.plan.cost import Derivation, Profile, Together
from cerebro.plan.logical import Scan, Select, Train

SCAN = Scan("toy.shards", train_rows=(320, 320), valid_rows=(160,))
MLP = Profile(
    "mlp", "MLP", 1000, "AdamW", 32, 32, False, ("accuracy",), state_bytes=12_000, train_batch_seconds=0.01,
    valid_batch_seconds=0.004, peak_bytes=300 << 20, together=Together(4, train_gain=2.0, valid_gain=1.5),
)  # fmt: skip
CNN = Profile(
    "cnn", "CNN", 90_000, "SGD", 32, 32, False, ("accuracy",), state_bytes=360_000, train_batch_seconds=0.04,
    valid_batch_seconds=0.015, peak_bytes=350 << 20,
)  # fmt: skip
BACKBONE = Derivation("backbone-1", "backbone", row_seconds=1e-3, row_bytes=512)


def select(configs: Mapping[str, Mapping[str, Any]], epochs: int = 2, order: str = "same") -> Select:
    """A logical plan."""
    return Select("valid", "accuracy", "max", Train(configs, epochs, order, 0, SCAN))


def grid(count: int, **fixed: Any) -> dict[str, dict[str, Any]]:
    """Configs that differ in `lr`."""
    return {f"m{number:03d}": {**fixed, "lr": number / 1000} for number in range(1, count + 1)}


def given(configs: Mapping[str, Mapping[str, Any]], profile: Profile | Mapping[str, Profile], **more: Any) -> Given:
    """What rules decide by; two workers, 16 GiB of memory and 10 GiB of disk unless it is said otherwise."""
    profiles = dict.fromkeys(configs, profile) if isinstance(profile, Profile) else profile
    means = more.pop("means", Means(2, "longest-remaining", "local"))
    limits = {"memory_bytes": 16 << 30, "disk_bytes": float(10 << 30), **more}
    return Given(Work(configs, profiles), means, **limits)
