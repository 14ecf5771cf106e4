"""The OpenAI-compatible server: from HTTP requests to an engine's tokens and back.

    app         the Ray Serve deployment, and the process that runs it
    meter       the server's counters in Ray's metrics
    arguments   the typed arguments of a server
    http        routes, answers, error bodies, server-sent events
    service     turns a request into generations: prompt, limits, sampling
    protocol    the typed requests and replies
    generation  the queue, the engine's keeper, one request's progress
    text        tokenizer and chat template; stop texts; tokens back to text
    refusals    errors of a request, with their HTTP status
    limits      bounds on the load of one server

A module imports only from modules on lower lines. Only ``app`` and ``meter`` import Ray: a server
without Ray answers in the unit tests.
"""
