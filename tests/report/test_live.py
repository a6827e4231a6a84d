import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from cerebro.messages import Launch, PilotFailed, Unit, UnitFailed, UnitFinished, WorkerLost
from cerebro.plan.workload import Chain, Done, Workload
from cerebro.report.live import LiveDisplay
from cerebro.report.render import best_model, chosen, render, sparkline, worker_text
from cerebro.report.snapshot import ModelProgress, Snapshot, WorkerProgress, eta
from cerebro.report.tracking import Goal, Tracking, nominal_seconds
from cerebro.spec.budget import Budget, Spent


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def chain(
    model: str, epochs: int = 2, train: tuple[float, ...] = (2.0, 2.0), valid: tuple[float, ...] = (1.0,)
) -> Chain:
    return Chain(model, epochs, train, valid, None)


def train(model: str, position: int = 0, epoch: int = 1) -> Unit:
    return Unit(model, "train", epoch, position, position)


def finished(unit: Unit, seconds: float = 2.0, worker: int = 0, **values: float) -> UnitFinished:
    return UnitFinished(unit, worker, 0.0, seconds, values=values)


CONFIGS = {"m001": {"lr": 1, "width": 8}, "m002": {"lr": 2, "width": 8}}
WORKLOAD = Workload((chain("m001"), chain("m002")), workers=2)


def tracking(workload: Workload = WORKLOAD, metric: str = "accuracy") -> Tracking:
    return Tracking(Goal("posture", metric, "max", CONFIGS, workload), 0.0)


def lines(display: LiveDisplay) -> list[str]:
    file = display._console.file  # pyright: ignore[reportPrivateUsage]
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


def plain(clock: Clock) -> LiveDisplay:
    return LiveDisplay(Console(file=io.StringIO(), width=80), clock)


def text_of(snapshot: Snapshot, rows: int = 20, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render(snapshot, rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def many(count: int, running: str) -> Snapshot:
    models = tuple(
        ModelProgress(f"m{i:03d}", {"lr": i}, "training", 1, 4, 1, {}, (i / 1000,)) for i in range(1, count + 1)
    )
    worker = WorkerProgress(0, Unit(running, "train", 1, 0, 0), 0.5)
    return Snapshot("posture", "accuracy", "max", "running", 1.0, 2.0, count, count * 4, 4, models, (worker,))


class TestEta:
    def test_remaining_seconds_are_shared_by_the_workers(self):
        assert eta({"m001": 6.0, "m002": 6.0, "m003": 6.0}, workers=2, ratio=1.0) == 9.0

    def test_one_long_model_cannot_be_shared(self):
        assert eta({"m001": 10.0, "m002": 1.0}, workers=4, ratio=1.0) == 10.0

    def test_it_is_as_slow_as_seen_so_far(self):
        assert eta({"m001": 4.0}, workers=1, ratio=1.5) == 6.0
        assert eta({}, workers=1, ratio=1.5) == 0.0

    def test_at_the_start_it_is_the_nominal_time(self):
        assert tracking().snapshot(0.0).eta_seconds == 10.0
        assert nominal_seconds(WORKLOAD) == 10.0

    def test_finished_units_scale_it(self):
        seen = tracking()
        seen.happened(finished(train("m001"), seconds=4.0), 4.0)
        assert seen.snapshot(4.0).eta_seconds == 2.0 * max((8.0 + 10.0) / 2, 10.0)

    def test_units_that_run_count_as_far_as_they_have_come(self):
        seen = tracking()
        seen.launched(Launch(train("m001"), 0), 0.0)
        seen.launched(Launch(train("m002"), 1), 0.0)
        assert seen.snapshot(1.0).eta_seconds == 9.0
        assert seen.snapshot(50.0).eta_seconds == 8.0

    def test_without_times_in_the_plan_units_are_counted(self):
        seen = tracking(Workload((chain("m001", 2, (0.0, 0.0), (0.0,)),), workers=1))
        assert seen.snapshot(0.0).eta_seconds is None
        seen.happened(finished(train("m001"), seconds=3.0), 3.0)
        assert seen.snapshot(3.0).eta_seconds == 15.0

    def test_a_model_that_failed_needs_no_more_time(self):
        seen = tracking()
        seen.happened(UnitFailed(train("m001"), 0, "failed", "no"), 0.0)
        assert seen.snapshot(0.0).eta_seconds == 10.0
        seen.happened(PilotFailed("m002", 0, "no"), 0.0)
        assert seen.snapshot(0.0).eta_seconds == 0.0
        assert seen.snapshot(0.0).units_total == 0

    def test_a_lost_worker_does_not_help(self):
        workload = Workload(tuple(chain(model) for model in CONFIGS), workers=2)
        seen = tracking(workload)
        seen.happened(WorkerLost(1, "killed"), 0.0)
        assert seen.snapshot(0.0).eta_seconds == 20.0


class TestTracking:
    def test_units_epochs_and_values_are_followed_to_the_end(self):
        seen = tracking(Workload((chain("m001", 1), chain("m002", 1)), 2))
        assert seen.happened(finished(train("m001", 0), loss=0.9), 2.0) is None
        assert seen.happened(finished(train("m001", 1), loss=0.8), 4.0) is None
        assert seen.happened(finished(Unit("m001", "valid", 1, 0, 0), 1.0, accuracy=0.75), 5.0) == "m001"
        assert seen.model("m001") == ModelProgress(
            "m001", {"lr": 1}, "finished", 3, 3, 1, {"train.loss": 0.8, "valid.accuracy": 0.75}, (0.75,)
        )

    def test_a_metric_of_the_train_split_can_decide(self):
        seen = tracking(metric="train.loss")
        seen.happened(finished(train("m001", 0), loss=0.9), 2.0)
        assert seen.model("m001").value is None
        seen.happened(finished(train("m001", 1), loss=0.8), 4.0)
        assert seen.model("m001").value == 0.8

    def test_a_resumed_experiment_starts_where_it_was(self):
        workload = replace(WORKLOAD, done={"m001": Done(2, (1,), 0), "m002": Done(3)})
        goal = Goal("posture", "accuracy", "max", {**CONFIGS, "m003": {"lr": 3, "width": 8}}, workload)
        seen = Tracking(goal, 0.0, {"m001": {"valid": {"accuracy": 0.6}}}, {"m003": "failed"}).snapshot(0.0)
        assert [(m.status, m.units_done, m.units_total, m.value) for m in seen.models] == [
            ("waiting", 4, 6, 0.6), ("finished", 6, 6, None), ("failed", 0, 0, None),
        ]  # fmt: skip
        assert (seen.units_done, seen.units_total, seen.eta_seconds) == (10, 12, 3.0)

    def test_a_model_that_finished_before_is_complete(self):
        seen = Tracking(Goal("posture", "accuracy", "max", CONFIGS, Workload((chain("m002"),), 2)), 0.0)
        model = seen.model("m001")
        assert (model.status, model.units_done, model.units_total, model.epoch) == ("finished", 6, 6, 2)

    def test_workers_are_busy_for_the_time_of_their_units(self):
        seen = tracking()
        seen.launched(Launch(train("m001"), 0), 0.0)
        seen.happened(finished(train("m001"), 2.0), 2.0)
        first, second = seen.snapshot(4.0).workers
        assert (first.unit, first.busy_share, second.busy_share) == (None, 0.5, 0.0)


class TestPlainLines:
    def test_without_a_terminal_there_is_a_line_at_the_start_one_for_each_model_and_one_at_the_end(self):
        clock = Clock()
        display = plain(clock)
        display.begin("posture", "accuracy", "max", CONFIGS, Workload((chain("m001", 1), chain("m002", 1)), 2))
        for position in (0, 1):
            display.launched(Launch(train("m001", position), 0))
            display.happened(finished(train("m001", position), loss=0.5))
            display.tick()
        display.happened(finished(Unit("m001", "valid", 1, 0, 0), 1.0, accuracy=0.75))
        display.happened(UnitFailed(train("m002"), 1, "failed", "ValueError: no such layer\nmore"))
        clock.now += 5
        display.end("finished")
        assert lines(display) == [
            "posture: 2 models × 1 epoch on 2 workers, 6 units, about 5.0 s",
            "m001 finished accuracy 0.7500 (lr=1)",
            "m002 failed ValueError: no such layer (lr=2)",
            "posture: finished after 5.0 s, 3 units, best m001 accuracy 0.7500",
        ]

    def test_a_progress_line_comes_at_most_every_ten_seconds(self):
        clock = Clock()
        display = plain(clock)
        display.begin("posture", "accuracy", "max", CONFIGS, WORKLOAD)
        for second in range(1, 26):
            clock.now = 100.0 + second
            display.launched(Launch(train("m001"), 0))
            display.tick()
        assert len(lines(display)) == 3
        assert lines(display)[1].startswith("units 0/12 · 10.0 s · about ")

    def test_what_is_spent_of_a_budget_is_part_of_the_progress_and_of_the_end(self):
        clock = Clock()
        display = plain(clock)
        budget = Budget(time="60m", epochs=40)
        display.begin(
            "posture", "accuracy", "max", CONFIGS, WORKLOAD,
            budget=lambda: budget.progress(Spent(seconds=clock.now - 100 + 690, epochs=9)),
        )  # fmt: skip
        clock.now += 30
        display.launched(Launch(train("m001"), 0))
        display.tick()
        display.end("interrupted")
        spent = "budget 12 of 60 min, 20 % · 9 of 40 epochs, 22 %"
        assert lines(display)[1].endswith(f" · {spent}")
        assert lines(display)[2] == f"posture: interrupted after 30.0 s, 0 units, {spent}"

    def test_nothing_new_is_no_line(self):
        clock = Clock()
        display = plain(clock)
        display.begin("posture", "accuracy", "max", CONFIGS, WORKLOAD)
        clock.now += 60
        display.tick()
        assert len(lines(display)) == 1

    def test_a_model_that_is_given_up_has_failed(self):
        display = plain(Clock())
        display.begin("posture", "accuracy", "max", CONFIGS, WORKLOAD)
        display.happened(UnitFailed(train("m001"), -1, "failed", "3 workers died on it"))
        display.happened(UnitFailed(train("m002"), -1, "failed", "3 workers died on it"))
        assert lines(display)[1:] == [
            "m001 failed 3 workers died on it (lr=1)", "m002 failed 3 workers died on it (lr=2)",
        ]  # fmt: skip

    def test_before_the_beginning_and_after_the_end_nothing_is_shown(self):
        display = plain(Clock())
        display.tick()
        display.launched(Launch(train("m001"), 0))
        display.end("finished")
        assert lines(display) == []

    def test_nothing_goes_to_stdout(self, capsys: pytest.CaptureFixture[str]):
        display = LiveDisplay(clock=Clock())
        display.begin("posture", "accuracy", "max", CONFIGS, WORKLOAD)
        display.end("finished")
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "posture: 2 models" in captured.err


class TestTerminal:
    def display(self, clock: Clock) -> LiveDisplay:
        return LiveDisplay(Console(file=io.StringIO(), force_terminal=True, width=120, height=40), clock)

    def test_it_is_redrawn_at_most_four_times_a_second(self):
        clock = Clock()
        display = self.display(clock)
        display.begin("posture", "accuracy", "max", CONFIGS, WORKLOAD)
        before = len(lines(display))
        for _ in range(10):
            clock.now += 0.02
            display.tick()
        assert len(lines(display)) == before
        clock.now += 0.1
        display.tick()
        assert len(lines(display)) > before
        display.end("finished")

    def test_no_color_leaves_the_colours_out(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("NO_COLOR", "1")
        display = self.display(Clock())
        display.begin("posture", "accuracy", "max", CONFIGS, WORKLOAD)
        display.end("finished")
        assert "\x1b[3" not in "\n".join(lines(display))

    def test_a_dumb_terminal_gets_plain_lines(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("TERM", "dumb")
        assert not self.display(Clock()).draws


class TestRender:
    def test_a_budget_has_a_line_of_its_own(self):
        shown = replace(tracking().snapshot(1.0), budget="12 of 60 min, 20 %")
        assert "budget 12 of 60 min, 20 %\n" in text_of(shown)
        assert "budget" not in text_of(replace(shown, budget=""))

    def test_few_models_are_all_shown(self):
        text = text_of(tracking().snapshot(1.0))
        assert "m001" in text
        assert "units 0/12" in text
        assert "w1 idle" in text

    def test_of_many_models_the_active_and_the_best_are_shown(self):
        snapshot = many(256, running="m007")
        shown = [model.model for model in chosen(snapshot, 20)]
        assert shown == ["m007", *(f"m{i:03d}" for i in range(238, 257))]
        assert "... and 236 more (236 training)" in text_of(snapshot)

    def test_the_star_is_at_the_best_in_either_mode(self):
        snapshot = many(3, running="m001")
        best, worst = best_model(snapshot), best_model(replace(snapshot, mode="min"))
        assert best is not None
        assert worst is not None
        assert (best.model, worst.model) == ("m003", "m001")

    def test_a_model_with_nan_is_never_the_best(self):
        nan = ModelProgress("m001", {}, "finished", 1, 1, 1, {}, (math.nan,))
        assert best_model(replace(many(1, "m001"), models=(nan,))) is None

    def test_a_long_error_does_not_squeeze_the_numbers(self):
        failed = ModelProgress("m001", {"lr": 0.0001}, "failed", 1, 4, 0, {}, (), "RuntimeError: " + "x" * 300)
        text = text_of(replace(many(2, "m002"), models=(failed, many(2, "m002").models[1])), width=90)
        assert "0.0001" in text
        assert "accuracy" in text

    def test_sparklines_hold_nan_and_constants(self):
        assert sparkline([1.0, math.nan, 2.0]) == "▁ █"
        assert sparkline([1.0, 1.0]) == "▁▁"
        assert sparkline([1.0]) == ""
        assert sparkline([math.nan, math.nan]) == ""

    def test_workers_say_what_they_do(self):
        unit = Unit("m003", "valid", 2, 0, 1)
        assert worker_text(WorkerProgress(0, unit, 1.0)) == "m003 e2 v1"
        assert worker_text(WorkerProgress(0, None, 1.0, last=unit)) == "after m003 e2 v1"
        assert worker_text(WorkerProgress(0, None, 1.0)) == "idle"
        assert worker_text(WorkerProgress(0, None, 1.0, lost=True)) == "lost"
