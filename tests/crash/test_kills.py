"""kill -9 of the driver, of workers, or of both, at random moments."""

import re

import pytest

from cerebro.testing.faults import Chaos, Subject, decisions, digests, leftovers, run_inline
from tests.crash.conftest import FILE


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_random_kills_change_no_bit_and_leave_nothing_behind(subject, undisturbed):
    chaos = Chaos(subject, seed=1)
    chaos.run(kills=4)
    assert digests(subject.store, "signals") == undisturbed
    assert leftovers(subject.store, "signals") == []
    assert chaos.left_behind == []
    assert max(chaos.lost("UnitFinished")) <= subject.workers
    assert max(chaos.lost("Launch")) <= 2 * subject.workers


SEARCHES = {
    "asha": 'cerebro.ASHA({"net": ["mlp", "cnn"], "lr": cerebro.loguniform(1e-3, 0.1)}, models=5, max_epochs=2, eta=2)',
    "pbt": 'cerebro.PBT({"net": ["mlp"], "lr": cerebro.loguniform(1e-3, 0.1)}, population=4, interval=1)',
}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_that_is_killed_again_and_again_decides_as_an_undisturbed_one(shards, tmp_path, name):
    file = tmp_path / f"killed_{name}.py"
    declared = FILE.format(shards=str(shards))
    file.write_text(re.sub(r"cerebro\.Grid\(.*\)", lambda found: SEARCHES[name], declared))
    undisturbed = Subject(file, "signals", tmp_path / "undisturbed")
    assert run_inline(undisturbed) == 0
    subject = Subject(file, "signals", tmp_path / "store")
    chaos = Chaos(subject, seed=2)
    chaos.run(kills=3)
    assert digests(subject.store, "signals") == digests(undisturbed.store, "signals")
    assert decisions(subject.store, "signals") == decisions(undisturbed.store, "signals")
    assert leftovers(subject.store, "signals") == []
