"""Options that several commands share."""

from typing import Annotated

import typer

Store = Annotated[
    str | None, typer.Option("--store", help="Folder of experiments; CEREBRO_STORE, or ./cerebro.d, by default.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Name = Annotated[str, typer.Argument(help="Name of an experiment in the store.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Worker processes; the cores or GPUs by default.")]
Engine = Annotated[str, typer.Option("--engine", help="local, inline, or simulated (a forecast; nothing is trained).")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Features = Annotated[
    str,
    typer.Option(
        "--features", help="What frozen parts and views give: materialize, share, recompute, or auto (by cost)."
    ),
]
Fuse = Annotated[
    bool, typer.Option("--fuse/--no-fuse", help="Train models of one architecture in one pass, where that pays.")
]
Fork = Annotated[
    bool, typer.Option("--fork/--no-fork", help="Train models once for as many epochs as their stages are the same.")
]
Tapes = Annotated[
    bool,
    typer.Option("--tapes/--no-tapes", help="Note the kernels of a batch, to play them for the next ones."),
]
ShardMemory = Annotated[
    str | None,
    typer.Option(
        "--shard-memory", help="What shards may take of memory, such as 2GB; by default half of what is free."
    ),
]
Models = Annotated[
    str | None,
    typer.Option("--models", help="Where data have grown: restart (the default), or continue from the last cycle."),
]
Policy = Annotated[
    str, typer.Option("--policy", help="longest-remaining, shared-scan (where memory is short), or random.")
]
