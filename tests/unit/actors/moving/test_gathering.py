"""The processes of a resize, of which one dies before all are connected."""

import time
from concurrent.futures import ThreadPoolExecutor

from actors.epochs.groups import open_store
from actors.moving.gathering import Gathering
from actors.moving.transfer import Place

HOST, SECONDS = "127.0.0.1", 30.0


def test_a_wait_for_one_that_died_ends_as_soon_as_the_store_is_closed() -> None:
    """Torch knows nothing of a resize that was given up; the process of number 0 closes it."""
    store = open_store(HOST, SECONDS)
    place = Place("test/died", HOST, store.port, 2, SECONDS)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda number: Gathering(place, number, lambda: False), range(2))
        for standing in [pool.submit(each.standing, []) for each in (one, other)]:
            standing.result(SECONDS)
        waits = pool.submit(one.connect)
        time.sleep(0.1)
        del store
        assert isinstance(waits.exception(SECONDS / 2), RuntimeError)
