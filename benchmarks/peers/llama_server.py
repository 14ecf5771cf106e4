"""llama.cpp's own HTTP server out of the wheel of xllamacpp, in the foreground.

Runs in ``.venv-peers-llama``, where nothing of raymoe is installed.
"""

import argparse
import signal

import xllamacpp


def main() -> None:
    """Serve a GGUF file until a signal ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True, help="sequences at a time")
    parser.add_argument("--context", type=int, required=True, help="tokens of a sequence")
    arguments = parser.parse_args()
    server = xllamacpp.Server(_parameters(arguments))
    print(f"serving at {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


def _parameters(arguments: argparse.Namespace) -> xllamacpp.CommonParams:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = arguments.model
    parameters.port = arguments.port
    parameters.cpuparams.n_threads = arguments.threads
    parameters.cpuparams_batch.n_threads = arguments.threads
    parameters.n_parallel = arguments.slots
    parameters.n_ctx = arguments.slots * arguments.context
    return parameters


if __name__ == "__main__":
    main()
