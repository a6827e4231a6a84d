"""Linear layers of all members at once: only products that have the bits of each member alone."""

import pytest
import torch
import torch.nn.functional as F

from cerebro.training.fused.linear import Case, _batched, _output, _to_bias, _to_input, _to_weight
from cerebro.training.tape import equal_bits


def case_of(device, members, rows, inputs, outputs) -> Case:
    return Case(
        members, (rows, inputs), (inputs, 1), 0, (outputs, inputs), False, True, torch.float32, device, 1,
        torch.get_float32_matmul_precision(),
    )  # fmt: skip


SHAPES = [(16, 1, 7, 1), (4, 1, 7, 1), (8, 2, 7, 1), (32, 13, 39, 2), (8, 13, 64, 7), (3, 32, 39, 1), (5, 3, 4, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_negative_zeros_have_the_sign_that_they_have_alone(device, shape):
    members, rows, inputs, outputs = shape
    found = _batched(case_of(device, *shape))
    assert found is not None
    zeros = torch.zeros(members, rows, inputs, device=device)
    negative = -torch.ones(members, outputs, inputs, device=device)
    bias = torch.full((members, outputs), -0.0, device=device)
    alone = torch.stack([F.linear(*each) for each in zip(zeros, negative, bias, strict=True)])
    assert equal_bits(_output(zeros, negative, bias, found.output), alone)
    gradient = torch.full((members, rows, outputs), -0.0, device=device)
    ones, positive = torch.ones_like(zeros), torch.ones_like(negative)
    assert equal_bits(
        _to_input(gradient, positive, found.to_input),
        torch.stack([one.mm(other) for one, other in zip(gradient, positive, strict=True)]),
    )
    assert equal_bits(
        _to_weight(gradient, ones, found.to_weight),
        torch.stack([one.t().mm(other) for one, other in zip(gradient, ones, strict=True)]),
    )
    assert equal_bits(_to_bias(gradient, found.to_bias), torch.stack([one.sum(0) for one in gradient]))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_found_of_a_shape_holds_for_other_numbers(device, shape):
    members, rows, inputs, outputs = shape
    found, generator = _batched(case_of(device, *shape)), torch.Generator(device).manual_seed(7)
    assert found is not None
    for _ in range(20):
        value, weight, bias, gradient = (
            torch.randn(members, *size, generator=generator, device=device)
            for size in ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
        )
        for kernel, arguments, is_batched in (
            (_output, (value, weight, bias), found.output),
            (_to_input, (gradient, weight), found.to_input),
            (_to_weight, (gradient, value), found.to_weight),
            (_to_bias, (gradient,), found.to_bias),
        ):
            assert equal_bits(kernel(*arguments, is_batched), kernel(*arguments, False))
