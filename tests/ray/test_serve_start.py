"""Ray Serve that does not come up: one sentence, and nothing of it is left on the cluster."""

import socket
from pathlib import Path

import pytest
from ray import serve

from cluster.address import AUTO
from cluster.session import Session
from moe.errors import LaunchError
from pipelines.serving.arguments import parse_arguments
from pipelines.serving.running import run_server
from tests import tiny, vocabularies

pytestmark = pytest.mark.ray


def test_a_proxy_that_cannot_listen_is_told_in_one_sentence(
    ray_session: Session, tmp_path: Path
) -> None:
    """On a cluster that is joined the port is that of every node, so it is not tried before."""
    tokenizer = vocabularies.byte_level()
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 1}
    model = vocabularies.save(tokenizer, tiny.saved(tiny.llama(**sizes), tmp_path / "tiny"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
        with pytest.raises(
            LaunchError, match=r"Ray Serve did not come up: .*Failed to bind"
        ) as caught:
            run_server(parse_arguments({"model": model}), "127.0.0.1", port, AUTO)
    assert len(str(caught.value).splitlines()) == 1
    assert not serve.status().proxies
