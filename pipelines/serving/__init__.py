"""The OpenAI-compatible server: from HTTP requests to an engine's tokens and back.

    running     the process of a server, from its start to its end
    app         the Ray Serve deployments
    replicas    several replicas behind one address
    living      answers with the ranks of a training run
    meter       the server's counters in Ray's metrics
    arguments   the typed arguments of a server
    http        routes, keys, answers, error bodies, server-sent events
    service     one model under one name, and its adapters
    adapters    the adapters by name: loading, dropping, their memory
    experts     where experts go, by the load of requests
    jobs        turns a request into generations: prompt, limits, sampling
    forms       the grammar of an answer
    protocol    the typed requests and replies
    generation  the scheduler's thread, the engine's keeper, one request's progress
    batching    which sequences go into the next batch, and their blocks
    tools       calls of functions in a model's text
    text        tokenizer and chat template; grammars; stop texts; tokens back to text
    refusals    errors of a request, with their HTTP status
    limits      bounds on the load of one server
    telemetry   figures of one server, for Prometheus
    access      who may ask

A module imports only from modules on lower lines. Those from ``arguments`` down import no Ray: a
server without Ray answers in the unit tests.
"""
