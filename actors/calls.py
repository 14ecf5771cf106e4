"""The answer of one rank to one command: a future, whatever carries the command."""

from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

Answer = Future[Any]
"""Holds what the rank returned, or the RaymoeError that it raised; RankDied where it ended."""


def failed(answer: Answer) -> bool:
    """Tell whether an answer is there and is an error; does not wait."""
    return answer.done() and answer.exception() is not None


def over(answers: Collection[Answer]) -> bool:
    """Tell whether all answers are there, or one is an error; does not wait."""
    return all(answer.done() for answer in answers) or any(map(failed, answers))
