"""kill -9 of the driver, of workers, or of both, at random moments."""

import pytest

from cerebro.testing.faults import Chaos, digests, leftovers


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
