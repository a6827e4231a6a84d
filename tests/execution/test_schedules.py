"""Whole schedules as text: a workload above the line, what becomes of it below.

After a change that is meant, `python -m tests.execution.test_schedules` writes them anew; read the difference.
"""

from pathlib import Path

import pytest

from cerebro.execution.forecast import forecast, schedule_text
from cerebro.execution.policies import POLICIES, make_policy
from tests.execution.workloads import workload

SCHEDULES = sorted((Path(__file__).parent / "schedules").glob("*.txt"))


def expected_and_found(path: Path) -> tuple[str, str]:
    header, _, expected = path.read_text().partition("\n---\n")
    fields = dict(part.split(" ", 1) for line in header.splitlines() for part in line.split("  "))
    seconds = [float(cost) for cost in fields["seconds"].split()]
    assert len(seconds) == int(fields["models"]), f"{path.name}: one cost for each model"
    work = workload(
        seconds,
        shards=int(fields["shards"]),
        workers=int(fields["workers"]),
        epochs=int(fields.get("epochs", 1)),
        order=fields.get("order", "same"),
        pinned=fields.get("pinned") == "yes",
        valid=[float(cost) for cost in fields.get("valid", "").split()],
        groups=fields.get("groups", "").split(),
        memory=int(fields["memory"]) if "memory" in fields else None,
    )
    found = forecast(work, make_policy(fields["policy"], work))
    reads = f"reads {found.read_bytes} shards\n" if work.memory is not None else ""
    return expected, f"{schedule_text(found)}\n{reads}"


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda path: path.stem)
def test_the_schedule_is_the_one_in_the_file(path: Path):
    expected, found = expected_and_found(path)
    assert found == expected


def test_every_policy_has_a_schedule():
    headers = [path.read_text().splitlines()[0] for path in SCHEDULES]
    assert {header.partition("policy ")[2] for header in headers} == set(POLICIES)


if __name__ == "__main__":
    for file in SCHEDULES:
        head = file.read_text().partition("\n---\n")[0]
        file.write_text(f"{head}\n---\n{expected_and_found(file)[1]}")
