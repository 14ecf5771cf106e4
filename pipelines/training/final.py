"""Errors that no restart can mend: Ray Train is told, and calls the run failed at once.

Ray Train starts a worker that raised anew, whatever it raised, as often as ``max_failures`` allows.
An error of one of its callbacks it does not try again: the run has failed, with that error.
"""

from typing import Any

from ray.train import UserCallback

from moe.errors import RaymoeError


class Final(Exception):
    """Carries an error that would come again out of the worker; its words are the error's."""

    def __init__(self, error: RaymoeError) -> None:
        super().__init__(error)
        self.error = error

    def __str__(self) -> str:
        return str(self.error)


class NoSecondTry(UserCallback):
    """Ends the run, as failed, with the first error that is final."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the final error among those of the workers, if there is one."""
        for error in worker_exceptions.values():
            if isinstance(error, Final):
                raise error
