import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cerebro.messages import Unit
from cerebro.report.gantt import BARS_MAX, Timeline, merged, timeline, utilisation
from cerebro.report.page import page, write_page
from cerebro.report.svg import Scale, colour, scale_for
from tests.report.catalogs import LARGE, POSTURE, create, finish, trained, unit_row

HOSTILE = '<script>alert("x")</script>\'"><img src=x onerror=alert(1)>&amp;'


class Outline(HTMLParser):
    """The tags and attributes of a page; complains of tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def posture(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(trained(tmp_path_factory.mktemp("posture"), POSTURE, epochs=4))


def test_the_page_is_well_formed_and_has_every_section(posture: str):
    Outline(posture)
    sections = [re.sub("<.*", "", heading).strip() for heading in re.findall("<h2>(.*?)</h2>", posture)]
    assert sections == ["Leaderboard", "Learning curves", "Hyper-parameters", "Schedule", "Workers", "Plan"]


def test_the_page_loads_and_runs_nothing(posture: str):
    outline = Outline(posture)
    assert "default-src 'none'; style-src 'unsafe-inline'" in posture
    assert outline.tags.isdisjoint({"script", "img", "link", "iframe", "object", "form", "a", "base"})
    assert outline.attributes.isdisjoint({"src", "href", "onload", "onerror", "onclick"})
    assert "url(" not in posture
    assert "@import" not in posture


def test_the_page_suits_light_and_dark(posture: str):
    assert "prefers-color-scheme: dark" in posture


def test_hostile_strings_are_shown_not_obeyed(tmp_path: Path):
    configs = [{"name": HOSTILE, HOSTILE: value} for value in (HOSTILE, "b", "c")]
    catalog = create(tmp_path, configs, metric=HOSTILE.replace(".", ""), epochs=1)
    for model in ("m001", "m002"):
        finish(catalog, model, {HOSTILE: 0.5, "loss": 1.0})
    catalog.add_unit(unit_row(Unit("m001", "train", 1, 0, 0)))
    catalog.set_model("m003", status="failed", error=HOSTILE)
    catalog.set_model("m002", badge=HOSTILE)
    catalog.set_experiment(name=HOSTILE, data=f"/data/{HOSTILE}", plan='{"text": "<script>"}', status="<b>running")
    text = page(catalog)
    outline = Outline(text)
    assert outline.tags.isdisjoint({"script", "img"})
    assert "onerror" not in outline.attributes
    assert "&lt;script&gt;" in text


def test_an_experiment_that_has_not_begun_has_a_page(tmp_path: Path):
    text = page(create(tmp_path, [{"lr": 1}]))
    Outline(text)
    assert "no model has a value yet" in text


def test_nan_and_missing_metrics_are_left_out_of_the_charts(tmp_path: Path):
    catalog = create(tmp_path, [{"lr": 1}, {"lr": 2}], epochs=1)
    finish(catalog, "m001", {"accuracy": math.nan, "loss": math.inf})
    finish(catalog, "m002", {"accuracy": 0.5})
    text = page(catalog)
    Outline(text)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text)


def test_256_models_fit_in_two_megabytes(tmp_path: Path):
    text = page(trained(tmp_path, LARGE, epochs=8, workers=8))
    Outline(text)
    assert "256 models" in text
    assert len(text.encode()) < 2_000_000


def test_write_page_replaces_the_file_and_leaves_nothing_else(tmp_path: Path):
    trained(tmp_path, POSTURE[:2], epochs=1).close()
    assert write_page(tmp_path) == tmp_path / "report.html"
    assert write_page(tmp_path).read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir() if "catalog" not in path.name] == ["report.html"]
    assert write_page(tmp_path, tmp_path / "other.html").name == "other.html"


class TestSchedule:
    def test_runs_follow_each_other_without_the_time_between(self):
        rows = [
            unit_row(Unit("m001", "train", 1, 0, 0), run=1, started=0.0, seconds=2.0),
            unit_row(Unit("m001", "train", 2, 0, 0), run=7, started=9000.0, seconds=3.0),
        ]
        line = timeline(rows)
        assert [(bar.start, bar.end) for bar in line.bars] == [(0.0, 2.0), (2.0, 5.0)]
        assert (line.runs, line.seconds) == (((1, 0.0), (7, 2.0)), 5.0)

    def test_few_bars_stay_as_they_are(self):
        line = timeline([unit_row(Unit("m001", "train", 1, i, i), started=float(i)) for i in range(10)])
        assert merged(line) == line.bars

    def test_adjacent_units_of_one_model_become_one_bar(self):
        units = [unit_row(Unit(f"m{i // 10:03d}", "train", 1, i, i), started=float(i), seconds=1.0) for i in range(100)]
        bars = merged(timeline(units), limit=50)
        assert [(bar.model, bar.start, bar.end, bar.units) for bar in bars[:2]] == [
            ("m000", 0.0, 10.0, 10), ("m001", 10.0, 20.0, 10),
        ]  # fmt: skip

    def test_any_number_of_units_is_drawn_with_a_bounded_number_of_bars(self):
        units = [
            unit_row(Unit(f"m{i % 97:03d}", "train", i, 0, 0), worker=i % 4, started=i / 4, seconds=1.0)
            for i in range(40_000)
        ]
        line = timeline(units)
        bars = merged(line)
        assert 500 < len(bars) <= BARS_MAX
        assert sum(bar.units for bar in bars) == 40_000
        assert {bar.worker for bar in bars} == {0, 1, 2, 3}

    def test_nothing_has_no_timeline(self):
        assert timeline([]) == Timeline((), (), 0.0)
        assert utilisation([]) == ()

    def test_a_worker_is_used_for_its_share_of_the_runs_it_was_in(self):
        rows = [
            unit_row(Unit("m001", "train", 1, 0, 0), run=1, worker=0, started=0.0, seconds=4.0),
            unit_row(Unit("m002", "train", 1, 0, 0), run=1, worker=1, started=0.0, seconds=1.0),
            unit_row(Unit("m002", "train", 1, 1, 1), run=2, worker=0, started=100.0, seconds=4.0),
        ]
        assert [(use.worker, use.units, use.share) for use in utilisation(rows)] == [(0, 2, 1.0), (1, 1, 0.25)]


class TestScales:
    @pytest.mark.parametrize(
        ("low", "high", "ticks"),
        [(0, 10, [0, 2, 4, 6, 8, 10]), (0.58, 0.91, [0.6, 0.7, 0.8, 0.9]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
    )
    def test_ticks_are_round(self, low: float, high: float, ticks: list[float]):
        assert Scale(low, high, 0, 100).ticks(5) == ticks

    def test_logarithmic_ticks_are_powers(self):
        assert Scale(1e-5, 1e-1, 0, 100, logarithmic=True).ticks(5) == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
        assert Scale(1e-4, 1e-2, 0, 100, logarithmic=True)(1e-3) == pytest.approx(50)

    @pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [1e300, -1e300], [1e-300], []])
    def test_any_values_have_a_scale(self, values: list[float]):
        scale = scale_for(values, 0, 100)
        assert all(-1 <= scale(value) <= 101 for value in values)
        assert len(scale.ticks()) < 20

    def test_models_differ_in_colour(self):
        assert len({colour(index, 16) for index in range(16)}) == 16
        assert len({colour(index, 10) for index in range(10)}) == 10
