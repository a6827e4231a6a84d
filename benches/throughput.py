"""How fast are 16 configs on two workers, against what a user would write by hand?

Contenders, all with the same models, batches of the same size, epochs and validation:

- cerebro: `experiment.fit(workers=2)`, catalog and checkpoints on disk included;
- one process: a plain loop over the configs with a DataLoader, default AdamW and torch's default threads;
- two processes: each trains 8 of the configs with a DataLoader and default AdamW, one thread each;
- ddp: two processes train one config after another with DistributedDataParallel over gloo, half a batch each.

Processes are forked from a parent that has torch loaded, for all contenders, so that start-up is small and alike.
"""

import multiprocessing
import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from harness import arguments, interleaved, median_ratio, print_figures, print_table, timed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cerebro
from cerebro.demo import posture

ROWS, FEATURES, CLASSES = 16384, 39, 7


def build_mlp(config):
    net = nn.Sequential(nn.Linear(FEATURES, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    return cerebro.Learner(
        module=net,
        loss=lambda module, batch: F.cross_entropy(module(batch["features"]), batch["label"]),
        optimizer=partial(torch.optim.AdamW, lr=config["lr"], weight_decay=config["l2"]),
        batch_size=64,
        metrics={"accuracy": cerebro.metrics.accuracy("label")},
    )


def rows() -> dict[str, np.ndarray]:
    random = np.random.RandomState(0)
    features = random.randn(ROWS, FEATURES).astype(np.float32)
    label = (features @ random.randn(FEATURES, CLASSES)).argmax(axis=1)
    return {"features": features, "label": label}


MLP_SPACE = {"lr": [1e-4, 3e-4, 1e-3, 3e-3], "l2": [0.0, 1e-4, 1e-3, 1e-2]}


class Workload:
    """One set of configs on one dataset, for every contender."""

    def __init__(self, name: str, experiment: cerebro.Experiment, columns: tuple[str, str], folder: Path) -> None:
        self.name, self.experiment, self._runs = name, experiment, 0
        self.folder = folder / name
        self.folder.mkdir()
        self.configs = experiment.search.configs()
        dataset = cerebro.open(experiment.data)
        self.train, self.valid = (self._tensors(dataset, split, columns) for split in ("train", "valid"))
        self.columns = columns

    def _tensors(self, dataset, split: str, columns) -> TensorDataset:
        shards = [dataset.shard(split, index).columns for index in range(len(dataset.splits[split]))]
        return TensorDataset(*(torch.from_numpy(np.concatenate([shard[c] for shard in shards])) for c in columns))

    def cerebro(self) -> float:
        self._runs += 1
        store = self.folder / f"store-{self._runs}"
        pilots = self.folder / "pilots"
        store.mkdir()
        if pilots.exists():
            os.symlink(pilots, store / ".pilots")
        seconds = timed(lambda: self.experiment.fit(workers=2, store=store, progress=False))
        if not pilots.exists():
            (store / ".pilots").rename(pilots)
        return seconds

    def one_process(self) -> float:
        return timed(lambda: _in_processes(_train_all, [(self, self.configs, 0)]))

    def two_processes(self) -> float:
        return timed(lambda: _in_processes(_train_all, [(self, self.configs[i::2], 1) for i in range(2)]))

    def ddp(self) -> float:
        with tempfile.NamedTemporaryFile(dir=self.folder) as meeting:
            return timed(lambda: _in_processes(_train_ddp, [(self, rank, meeting.name + ".ddp") for rank in range(2)]))


def _in_processes(target, arguments_of_each) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=target, args=arguments) for arguments in arguments_of_each]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def _train_all(workload: Workload, configs, threads: int) -> None:
    torch.set_num_threads(threads or os.cpu_count())
    for config in configs:
        learner = workload.experiment.build(config)
        optimizer = learner.optimizer(learner.module.parameters())
        loader = DataLoader(workload.train, learner.batch_size, shuffle=True)
        _epochs(workload, learner, learner.module, optimizer, loader)


def _train_ddp(workload: Workload, rank: int, meeting: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    for config in workload.configs:
        learner = workload.experiment.build(config)
        module = nn.parallel.DistributedDataParallel(learner.module)
        optimizer = learner.optimizer(module.parameters())
        sampler = torch.utils.data.DistributedSampler(workload.train)
        loader = DataLoader(workload.train, learner.batch_size // 2, sampler=sampler)
        _epochs(workload, learner, module, optimizer, loader)
    distributed.destroy_process_group()


def _epochs(workload: Workload, learner, module, optimizer, loader) -> None:
    for _ in range(workload.experiment.epochs):
        module.train()
        running = correct = 0.0
        for values in loader:
            batch = dict(zip(workload.columns, values, strict=True))
            optimizer.zero_grad()
            output = module(batch[workload.columns[0]])
            loss = F.cross_entropy(output, batch[workload.columns[1]])
            loss.backward()
            optimizer.step()
            running += loss.item() * len(output)
            correct += (output.argmax(1) == batch[workload.columns[1]]).sum().item()
        learner.module.eval()
        with torch.no_grad():
            for values in DataLoader(workload.valid, learner.batch_size):
                output = learner.module(values[0])
                running += F.cross_entropy(output, values[1]).item()
                correct += (output.argmax(1) == values[1]).sum().item()


def workloads(folder: Path, epochs: int) -> list[Workload]:
    posture.make_shards(folder / "posture.shards")
    cerebro.ingest(rows(), folder / "mlp.shards", shards=4, label="label", split=(0.8, 0.2, 0.0))
    search = cerebro.Grid({"window": [50, 100], "layers": [2, 3], "lr": [1e-3, 3e-3], "l2": [1e-2, 1e-1]})
    goal = {"epochs": epochs, "metric": "accuracy", "mode": "max"}
    conv = cerebro.Experiment("conv", data=folder / "posture.shards", build=posture.build, search=search, **goal)
    mlp = cerebro.Experiment("mlp", data=folder / "mlp.shards", build=build_mlp, search=cerebro.Grid(MLP_SPACE), **goal)
    return [
        Workload("conv-LSTM", conv, ("signal", "exercise"), folder),
        Workload("MLP", mlp, ("features", "label"), folder),
    ]


def main() -> None:
    options = arguments(__doc__ or "", rounds=(int, 5, "rounds"), epochs=(int, 2, "epochs of each model"))
    rounds = 1 if options.quick else options.rounds
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for workload in workloads(folder, 1 if options.quick else options.epochs):
            workload.cerebro()  # starts the fork server and remembers the pilot
            contenders = {
                "cerebro": workload.cerebro,
                "one process": workload.one_process,
                "two processes": workload.two_processes,
                "ddp": workload.ddp,
            }
            found[workload.name] = seconds = interleaved(contenders, rounds)
            table = [(who, float(np.median(s)), median_ratio(s, seconds["cerebro"])) for who, s in seconds.items()]
            title = f"{workload.name}: 16 configs, {workload.experiment.epochs} epochs, median of {rounds}"
            print_table(title, ["contender", "seconds", "× cerebro"], table)
    conv, mlp = found["conv-LSTM"], found["MLP"]
    best = min((who for who in conv if who != "cerebro"), key=lambda who: float(np.median(conv[who])))
    print_figures(
        "throughput",
        {
            "convlstm_vs_best": median_ratio(conv[best], conv["cerebro"]),
            "mlp_vs_typical": median_ratio(mlp["two processes"], mlp["cerebro"]),
            "mlp_vs_ddp": median_ratio(mlp["ddp"], mlp["cerebro"]),
        },
    )


if __name__ == "__main__":
    main()
