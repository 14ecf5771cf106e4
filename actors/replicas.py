"""What the actors cannot run yet: more than one replica of a pipeline."""

from moe.errors import PlanError
from moe.planning.plan import Plan


def check_replicas(plan: Plan) -> None:
    """Raise PlanError before anything starts; otherwise all but the first would stay idle."""
    if plan.replicas > 1:
        raise PlanError(
            f"the plan has {plan.replicas} replicas of its pipeline; actors train and serve one: "
            "make the plan with one replica, each rank naming one device"
        )
