"""Metrics merge exactly, however the rows were cut."""

import itertools
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st

import cerebro
from cerebro.training.metrics import (
    Meter,
    Metric,
    accuracy,
    balanced_accuracy,
    mae,
    merged_value,
    mse,
    torchmetric,
)

ROWS, CLASSES = 60, 4


def batch_of(rows: slice) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    # Probabilities: torchmetrics takes scores that happen to lie between 0 and 1 for such, batch by batch.
    scores = torch.randn(ROWS, CLASSES, generator=generator).softmax(dim=1)
    label = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    return scores[rows], {"label": label[rows]}


def value_of(metric, cuts: list[int]) -> float:
    """The metric over all rows, one visit for each piece."""
    edges = [0, *sorted(cuts), ROWS]
    partials = []
    for start, stop in itertools.pairwise(edges):
        meter = Meter(metric)
        if stop > start:
            meter.add(metric.measure(*batch_of(slice(start, stop))))
        partials.append(meter.partial())
    return merged_value(metric, partials)


METRICS = {
    "accuracy": accuracy("label"),
    "balanced accuracy": balanced_accuracy("label", CLASSES),
    "torchmetrics accuracy": torchmetric(torchmetrics.Accuracy("multiclass", num_classes=CLASSES), "label"),
    "torchmetrics macro F1": torchmetric(
        torchmetrics.F1Score("multiclass", num_classes=CLASSES, average="macro"), "label"
    ),
    "torchmetrics AUROC (lists)": torchmetric(torchmetrics.AUROC("multiclass", num_classes=CLASSES), "label"),
}


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, ROWS), max_size=5))
def test_cuts_do_not_change_a_metric(name, cuts):
    assert value_of(METRICS[name], cuts) == value_of(METRICS[name], [])


def test_accuracy_is_that_of_torchmetrics():
    scores, batch = batch_of(slice(None))
    assert value_of(accuracy("label"), [7, 31]) == pytest.approx(
        float(torchmetrics.functional.accuracy(scores, batch["label"], "multiclass", num_classes=CLASSES))
    )


def test_balanced_accuracy_is_the_macro_recall():
    scores, batch = batch_of(slice(None))
    expected = torchmetrics.functional.recall(
        scores, batch["label"], "multiclass", num_classes=CLASSES, average="macro"
    )
    assert value_of(balanced_accuracy("label", CLASSES), [20]) == pytest.approx(float(expected))


def test_binary_logits_are_read_by_their_sign():
    batch = {"label": torch.tensor([0, 1, 1, 0])}
    logits = torch.tensor([[-2.0], [3.0], [-1.0], [-0.5]])
    assert accuracy("label").measure(logits, batch)["correct"] == 3
    assert accuracy("label").measure(logits[:, 0], batch)["correct"] == 3


def test_errors_are_means_over_the_examples():
    batch, output = {"y": torch.tensor([1.0, 2.0, 4.0])}, torch.tensor([[1.0], [3.0], [2.0]])
    for metric, expected in ((mae("y"), 1.0), (mse("y"), 5 / 3)):
        meter = Meter(metric)
        meter.add(metric.measure(output, batch))
        assert merged_value(metric, [meter.partial()]) == pytest.approx(expected)


def test_a_metric_over_nothing_is_not_a_number():
    assert math.isnan(merged_value(accuracy("label"), [{}, {}]))


@dataclass(frozen=True)
class Given(Metric):
    """Measures and is whatever it was made with."""

    measured: Any
    is_worth: Any = 0.0

    def measure(self, output, batch):
        return self.measured

    def value(self, totals):
        return self.is_worth


def partial_of(metric: Metric, batches: int = 1) -> dict[str, Any]:
    """What a visit of so many batches gives."""
    meter = Meter(metric)
    for _ in range(batches):
        meter.add(metric.measure(None, {}))
    return meter.partial()


@pytest.mark.parametrize(
    ("measured", "complaint"),
    [
        (torch.tensor(3.0), "Given.measure: gave a Tensor; it must give a mapping"),
        ({"hits": "many"}, "Given.measure: 'hits' is a str"),
        ({"hits": [1, None]}, "Given.measure: 'hits' is a list"),
        ({"hits": torch.tensor(1j)}, "Given.measure: 'hits' is a Tensor"),
    ],
)
def test_what_cannot_be_added_up_is_refused_by_name(measured, complaint):
    with pytest.raises(cerebro.ModelError, match=complaint):
        partial_of(Given(measured))


@pytest.mark.parametrize("worth", ["good", None, [0.5], {"a": 1}])
def test_a_metric_that_is_no_number_is_refused_by_name(worth):
    with pytest.raises(cerebro.ModelError, match=r"Given.value: gave a \w+; a metric is one number"):
        merged_value(Given({}, worth), [{"rows": 1}])


def test_numbers_of_numpy_and_torch_are_numbers():
    partial = partial_of(
        Given({"hits": np.int64(2), "error": np.array([0.5, 1.5]), "rows": torch.tensor(3)}), batches=2
    )
    assert json.loads(json.dumps(partial)) == {"hits": 4, "error": [1.0, 3.0], "rows": 6}
    assert merged_value(Given({}, np.float32(0.5)), [{"rows": 1}]) == 0.5


@pytest.mark.parametrize(
    ("losses", "total"),
    [((math.inf, 1.0), math.inf), ((1e308, 1e308), math.inf), ((math.inf, -math.inf), math.nan)],
)
def test_a_sum_without_an_end_is_not_an_error(losses, total):
    meter = Meter(Given({}))
    for loss in losses:
        meter.add({"loss": loss})
    assert meter.partial()["loss"] == pytest.approx(total, nan_ok=True)
