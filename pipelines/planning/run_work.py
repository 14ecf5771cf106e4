"""The workload of a run, for whoever predicts it: from the run file and the length of sequences."""

from dataclasses import replace

from moe.config.run import RunConfig
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory


def workload(run: RunConfig, sequence_length: int, there: Inventory, replicas: int = 1) -> Workload:
    """Return the workload of one step on the replica with the most micro-batches.

    Its ranks hold copies of each other where the run keeps copies and has more ranks than one.
    """
    most = -(-run.train.micro_batches // replicas)
    work = Workload.of_run(run.train, sequence_length, most, not there.of_cpus)
    shared = run.plan.path is not None or run.plan.stages * run.plan.gang * replicas > 1
    return replace(work, copies=run.elastic.copies and shared)
