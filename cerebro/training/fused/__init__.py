"""Several models trained in one pass over shared batches, each with the bits that it would have alone."""

from cerebro.training.fused.fit import fused_train_visit, fused_valid_visit
from cerebro.training.fused.likeness import why_not_fused
from cerebro.training.fused.strides import NotFusedError
from cerebro.training.fused.weights import bind_together

__all__ = ["NotFusedError", "bind_together", "fused_train_visit", "fused_valid_visit", "why_not_fused"]
