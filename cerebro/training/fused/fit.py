"""Training several models over a shard in one pass: each ends with the very bits that it would have alone."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from cerebro.training.fused import convolution, dropout, elementwise, linear, reductions, shapes, stacked
from cerebro.training.fused.joint import HandedOut, JointModule
from cerebro.training.fused.likeness import difference
from cerebro.training.fused.loops import Members
from cerebro.training.fused.many import Group, Many
from cerebro.training.fused.measures import Measures
from cerebro.training.fused.noise import with_the_same_noise
from cerebro.training.fused.optimizers import Steps
from cerebro.training.fused.strides import NotFusedError
from cerebro.training.fused.weights import bind_together
from cerebro.training.learners import Batch, LiveLearner
from cerebro.training.player import Given, Player, Tapes
from cerebro.training.train import Columns, DivergedError, Visit, batches, divergence, tensors_in

RULES = {
    **dict(elementwise.rules()),
    **dict(shapes.rules()),
    **dict(reductions.rules()),
    F.linear: linear.linear,
    **{function: convolution.convolution(n) for n, function in enumerate((F.conv1d, F.conv2d, F.conv3d), 1)},
    F.dropout: dropout.dropout,
}
"""The functions that are computed for all members at once; the others are, member by member."""


def fused_train_visit(
    lives: Sequence[LiveLearner],
    columns: Columns,
    row_order: "np.ndarray | None",
    exact: bool = True,
    tapes: Tapes | None = None,
) -> list[Visit | DivergedError]:
    """Train on every row of a shard once, as `train_visit` does, every learner; what each gave, in order.

    Unless `exact`, kernels that take all learners at once may give other bits (`cerebro.training.fused.stacked`). With
    `tapes`, which are of these learners' train visits, batches are played where they can be.

    Raises:
        NotFusedError: the models cannot be trained in one pass; their states are to be loaded again, and each is to be
            trained alone. The same holds for whatever else is raised: the user's code failed, perhaps only so.
    """
    for live in lives:
        live.training_mode()
    fused = _Fused(lives, exact)
    learner, device = lives[0].learner, lives[0].device
    steps = Steps(lives, fused.joint.parameters)

    def compute(batch: Batch) -> Given:
        steps.begin()
        loss, output = fused.loss_and_output(batch)
        _backward(loss)
        gradients = [gradient for parameter in fused.joint.parameters for gradient in parameter.taken_gradients()]
        tensors, forms = fused.measures.measured(batch, loss, output)
        return [*tensors, *gradients], (len(tensors), forms)

    player = fused.player(compute, tapes)
    for rows_taken in batches(columns, learner.batch_size, row_order, device, learner.drop_last):
        batch = lives[0].viewed(rows_taken)
        tensors, (count, forms) = player(batch)
        fused.measures.keep(_rows(batch), tensors[:count], forms)
        gradients = iter(tensors[count:])
        for parameter in fused.joint.parameters:
            parameter.give_gradients(gradients)
        del tensors, gradients
        if steps.step():
            fused.rebind()
            player = fused.player(compute, tapes)
        steps.begin()  # before the next batch takes memory
    if tapes is not None:
        tapes.memo = [parameter.use for parameter in fused.joint.parameters]
    fused.joint.check_unchanged()
    bind_together(lives)
    return [divergence(visit) or visit for visit in fused.measures.visits()]


def fused_valid_visit(
    lives: Sequence[LiveLearner], columns: Columns, exact: bool = True, tapes: Tapes | None = None
) -> list[Visit]:
    """Measure every learner on every row of a shard, as `valid_visit` does; raises as `fused_train_visit` does."""
    for live in lives:
        live.module.eval()
    fused = _Fused(lives, exact)
    learner = lives[0].learner
    batch_size = learner.eval_batch_size or learner.batch_size

    def compute(batch: Batch) -> Given:
        loss, output = fused.loss_and_output(batch)
        tensors, forms = fused.measures.measured(batch, loss, output)
        return [*tensors, *_put_out(output)], forms  # as in `valid_visit`

    with torch.no_grad():
        player = fused.player(compute, tapes)
        for rows_taken in batches(columns, batch_size, None, lives[0].device, drop_last=False):
            batch = lives[0].viewed(rows_taken)
            fused.measures.keep(_rows(batch), *player(batch))
    fused.joint.check_unchanged()
    return fused.measures.visits()


def _put_out(output: Any) -> list[torch.Tensor]:
    """The tensors of all members that an output holds."""
    each = (_of_members(value) if isinstance(value, Members) else [value] for value in tensors_in(output))
    return [tensor for tensors in each for tensor in tensors]


def _of_members(value: Any) -> Sequence[torch.Tensor]:
    return value.members() if value.is_tuple else [value.stacked()]


class _Fused:
    """A group for the time of one visit."""

    def __init__(self, lives: Sequence[LiveLearner], exact: bool) -> None:
        bind_together(lives)
        self._lives = lives
        self._group = Group(len(lives), RULES if exact else {**RULES, **stacked.RULES})
        self.joint = JointModule(self._group, [live.module for live in lives])
        self.measures = Measures(self._group, lives)
        first = lives[0].learner.loss
        self._is_one_loss = all(difference(first, live.learner.loss) is None for live in lives[1:])

    def player(self, compute: Callable[[Batch], Given], tapes: Tapes | None) -> Callable[[Batch], Given]:
        """How each batch is computed, while the tensors of the members stay where they are."""
        if tapes is None or not self.measures.are_joint:
            return compute
        tapes.hold_at(self.joint.places)
        if tapes.memo is not None:  # of a visit whose batches are played from the first on nothing is seen
            for parameter, use in zip(self.joint.parameters, tapes.memo, strict=True):
                parameter.use = use
        return Player(compute, tapes)

    def rebind(self) -> None:
        """Let the states lie in rows again, with what the optimizers made."""
        bind_together(self._lives)
        self.joint.rebind()

    def loss_and_output(self, batch: Batch) -> tuple[Many, Any]:
        """The loss of a batch of each member, and the output that the metrics read."""
        self._group.next_batch()
        first = self._lives[0]
        stand_in = nullcontext() if first.frozen is None else first.frozen.standing_in(self.joint.module, batch)
        with first.autocast(), stand_in:
            result = first.learner.loss(self.joint.module, batch) if self._is_one_loss else self._of_each(batch)
        loss, output = result if isinstance(result, tuple) else (result, self.joint.output.take())
        if not isinstance(loss, Many) or loss.ndim:
            raise NotFusedError("the loss is not a scalar that depends on the module")
        return loss, first.for_metrics(output)

    def _of_each(self, batch: Batch) -> Any:
        """What the losses of the members give, each of which sees the output of its own model."""
        handed = HandedOut(self.joint)
        losses = iter(enumerate(live.learner.loss for live in self._lives))
        versions = [tensor._version for tensor in batch.values()]

        def run() -> Any:
            member, loss = next(losses)
            handed.begin(member)
            return loss(handed, batch)

        results = with_the_same_noise(self._group.size, run)
        if versions != [tensor._version for tensor in batch.values()]:
            raise NotFusedError("the losses of the models differ, and change the batch")
        return self._group.gather(results)


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _backward(loss: Many) -> None:
    if loss.is_tuple:
        torch.autograd.backward(loss.members())
    else:
        stacked = loss.stacked()
        stacked.backward(torch.ones_like(stacked))
