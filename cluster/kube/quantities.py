"""Amounts as Kubernetes writes them, read by the official client."""

from decimal import Decimal

from kubernetes.utils import parse_quantity


def amount(text: str | int) -> Decimal:
    """Return what ``500m``, ``2Gi`` or ``8`` amounts to."""
    return Decimal(parse_quantity(text))  # type: ignore[no-untyped-call]
