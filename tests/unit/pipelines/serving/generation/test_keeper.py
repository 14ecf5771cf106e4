"""The keeper of an engine: the state that others read while it is lost, rebuilt and ended."""

import pytest

from actors.commands import Batch, BatchOutput
from actors.engine.serving import Mended
from moe.errors import LaunchError
from pipelines.serving.generation.keeper import EngineKeeper


class Brief:
    """An engine that is only built, asked for its health and ended."""

    def __init__(self) -> None:
        self.health: bool | Exception = True
        self.ended = 0

    def weights(self) -> None:
        return None

    def begin(self, batch: Batch) -> Batch:
        raise NotImplementedError

    def finish(self, flight: Batch) -> BatchOutput:
        raise NotImplementedError

    def mend(self) -> Mended:
        if isinstance(self.health, Exception):
            raise self.health
        return Mended((2,), 0.5)

    def healthy(self) -> bool:
        if isinstance(self.health, Exception):
            raise self.health
        return self.health

    def shutdown(self) -> None:
        self.ended += 1


def test_an_engine_is_whole_only_when_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    engine = Brief()
    keeper = EngineKeeper(lambda: engine)
    assert keeper.whole()
    engine.health = False
    assert not keeper.whole()
    engine.health = OSError("no answer")
    assert not keeper.whole()
    assert "the health check of the engine failed" in caplog.text


def test_the_state_follows_a_loss_and_the_rebuild(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Brief(), Brief()
    states = []

    def build() -> Brief:
        states.append(keeper.state if first.ended else "first")
        return second if first.ended else first

    keeper = EngineKeeper(build)
    first.health = OSError("no answer")
    assert not keeper.mend()
    assert "the engine could not be mended: no answer" in caplog.text
    assert (keeper.state, keeper.engine) == ("mending", first)
    assert keeper.rebuild() is None
    assert (keeper.state, keeper.engine) == ("serving", second)
    assert (first.ended, states) == (1, ["first", "rebuilding"])


def test_a_rebuild_that_fails_leaves_no_engine_and_says_why() -> None:
    found: list[Brief | Exception] = [Brief(), LaunchError("no room"), Brief()]

    def build() -> Brief:
        made = found.pop(0)
        if isinstance(made, Exception):
            raise made
        return made

    keeper = EngineKeeper(build)
    assert str(keeper.rebuild()) == "no room"
    assert (keeper.state, keeper.engine, keeper.whole()) == ("failed", None, False)
    assert keeper.rebuild() is None
    assert keeper.state == "serving"
    keeper.end()
    keeper.end()
    assert keeper.engine is None
