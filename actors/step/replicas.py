"""How a step is spread over the replicas of a pipeline."""

from actors.commands import StepInput
from moe.config.run import TrainSection
from moe.errors import PlanError
from moe.planning.plan.plan import Plan


def part_of_step(micro_batches: int, replica: int, replicas: int) -> range:
    """Return the micro-batches of one replica: as many each as can be, some take one more.

    The global batch is the same whatever their number, and so is the sum that its gradient is.
    """
    start = replica * micro_batches // replicas
    return range(start, (replica + 1) * micro_batches // replicas)


def part_of(batch: StepInput, train: TrainSection, replica: int, replicas: int) -> StepInput:
    """Return a replica's rows of a global batch."""
    part = part_of_step(train.micro_batches, replica, replicas)
    rows = slice(part.start * train.micro_batch, part.stop * train.micro_batch)
    tokens = None if batch.tokens is None else batch.tokens[rows]
    labels = None if batch.labels is None else batch.labels[rows]
    documents = None if batch.documents is None else batch.documents[rows]
    return StepInput(batch.step, tokens, labels, batch.label_count, documents)


def check_one_replica(plan: Plan) -> None:
    """Raise PlanError where a plan for serving has several replicas; Ray Serve has its own."""
    if plan.replicas > 1:
        raise PlanError(
            f"the plan has {plan.replicas} replicas of its pipeline, a server holds one: make the "
            "plan with one replica, each rank naming one device, and let Ray Serve repeat it"
        )


def check_step(plan: Plan, schedule: str, micro_batches: int) -> None:
    """Raise PlanError where some replica has no micro-batch, or not what its schedule takes."""
    told = f"a step has {micro_batches} micro-batches (train.global_batch / train.micro_batch)"
    if micro_batches < plan.replicas:
        raise PlanError(
            f"{told} but the plan has {plan.replicas} replicas; give at least one for each by a "
            "larger train.global_batch or a smaller train.micro_batch, or plan fewer replicas"
        )
    for replica in range(plan.replicas):
        count = len(part_of_step(micro_batches, replica, plan.replicas))
        try:
            plan.check_schedule(schedule, count)
        except PlanError as error:
            raise PlanError(f"{told}, {count} for replica {replica}: {error}") from error
