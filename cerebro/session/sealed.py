"""The sealed test split: looked at on request, and every look is noted."""

from contextlib import closing

from cerebro.errors import DataError
from cerebro.messages import Unit
from cerebro.session.declaration import declare
from cerebro.session.export import trained
from cerebro.session.members import members_in
from cerebro.spec.experiment import ExperimentSpec
from cerebro.storage.catalog import Catalog
from cerebro.storage.store import ExperimentFolder


def sealed_metrics(folder: ExperimentFolder, model: str, spec: ExperimentSpec) -> dict[str, float]:
    """The metrics of a model on the test split, in one pass over its shards; the look is an event in the log.

    Raises:
        DataError: the dataset has no test split.
        StoreError: the model was not trained, or the experiment is being run.
    """
    from cerebro.training.randomness import preserved_generators
    from cerebro.training.trainer import Trainer

    with closing(folder.reader()) as reader:
        reader.check_model(model)
        said, members = reader.experiment()["spec"], members_in(reader)
    device = said["device"]
    declaration = declare(spec, device, like=said)
    shards = declaration.dataset.splits.get("test", ())
    if not shards:
        raise DataError(
            f"{declaration.dataset.path} has no test split: ingest it with one, such as --split 0.7,0.15,0.15"
        )
    row, content = trained(folder, model)
    epoch, state = max(1, row["epochs"]), memoryview(content)
    with preserved_generators():
        trainer = Trainer(declaration.program(members), device)
        visits = [trainer.visit(Unit(model, "test", epoch, i, i), state) for i in range(len(shards))]
        values = trainer.values(model, [visit.partials for visit in visits])
    with folder.held(), closing(Catalog(folder.path)) as catalog, catalog.transaction():
        catalog.add_event("user", "test split looked at", {"model": model, "values": values})
    return values
