"""Names, labels and variables as Kubernetes accepts them, checked when the file is read."""

import re
from typing import Annotated

from pydantic import AfterValidator

from cluster.kuberay.names import is_object_name
from moe.planning.devices.labels import is_label_key, is_label_value

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL_RULE = "at most 63 letters, digits, dashes, underscores and dots"


def _object_name(text: str) -> str:
    if not is_object_name(text):
        raise ValueError(
            "give the name of an object of the namespace: lower-case letters, digits, dashes and "
            "dots, the first and the last a letter or a digit"
        )
    return text


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if not is_label_key(key):
            raise ValueError(f"{key!r} is no label key; give {_LABEL_RULE}, a domain/ before it")
        if not is_label_value(value):
            raise ValueError(f"{key} = {value!r} is no label value; give {_LABEL_RULE}")
    return labels


def _annotations(annotations: dict[str, str]) -> dict[str, str]:
    for key in annotations:
        if not is_label_key(key):
            raise ValueError(f"{key!r} is no annotation key; give {_LABEL_RULE}")
    return annotations


def _variables(variables: dict[str, str]) -> dict[str, str]:
    for name in variables:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is no variable name; give letters, digits and underscores")
    return variables


ObjectName = Annotated[str, AfterValidator(_object_name)]
"""The name of a Secret, a ServiceAccount, a PersistentVolumeClaim or a PriorityClass."""

Labels = Annotated[dict[str, str], AfterValidator(_labels)]
Annotations = Annotated[dict[str, str], AfterValidator(_annotations)]
Variables = Annotated[dict[str, str], AfterValidator(_variables)]
