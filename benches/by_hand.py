"""What somebody would write by hand: two processes, each with half of the configs one after another.

`strong` takes slices of tensors in memory, a GPU's if it is to train on one, and fused AdamW; `typical` has a
DataLoader and the default AdamW, for processors.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

Net = Callable[[], nn.Module]


def two_processes(train: Callable[..., None], rates: Sequence[float], *arguments: Any) -> None:
    """Let each of two processes `train(rates, *arguments)` half of the learning rates."""
    fork = multiprocessing.get_context("fork")
    halves = [fork.Process(target=train, args=(rates[half::2], *arguments)) for half in range(2)]
    for process in halves:
        process.start()
    for process in halves:
        process.join()
        assert process.exitcode == 0


def strong(rates: Sequence[float], workload: Any) -> None:
    torch.set_num_threads(1)
    (x, y), size = _placed(workload.train, workload.device), workload.setting.batch_size
    measured = _placed(workload.valid, workload.device)
    for rate in rates:
        net = workload.setting.net().to(workload.device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01, fused=True)
        for _ in range(workload.setting.epochs):
            order = torch.randperm(len(x), device=workload.device)
            mixed, labels = x[order], y[order]
            _epoch(net, optimizer, ((mixed[i : i + size], labels[i : i + size]) for i in range(0, len(x), size)))
            _validate(net, ((t[i : i + size] for t in measured) for i in range(0, len(measured[0]), size)))


def typical(rates: Sequence[float], workload: Any) -> None:
    torch.set_num_threads(1)
    for rate in rates:
        net = workload.setting.net()
        optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
        for _ in range(workload.setting.epochs):
            _epoch(net, optimizer, DataLoader(workload.train, workload.setting.batch_size, shuffle=True))
            _validate(net, DataLoader(workload.valid, workload.setting.batch_size))


def _epoch(net: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Any]) -> None:
    net.train()
    total, correct = _zeros(net)
    for x, y in batches:
        optimizer.zero_grad()
        output = net(x)
        loss = F.cross_entropy(output, y)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(x)
        correct += (output.argmax(1) == y).sum()


def _validate(net: nn.Module, batches: Iterable[Any]) -> None:
    net.eval()
    total, correct = _zeros(net)
    with torch.no_grad():
        for x, y in batches:
            output = net(x)
            total += F.cross_entropy(output, y) * len(x)
            correct += (output.argmax(1) == y).sum()


def _zeros(net: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    device = next(net.parameters()).device
    return torch.zeros((), device=device), torch.zeros((), dtype=torch.long, device=device)


def _placed(dataset: TensorDataset, device: str) -> list[torch.Tensor]:
    return [tensor.to(device) for tensor in dataset.tensors]
