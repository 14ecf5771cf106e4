"""The OpenAI-compatible server: from HTTP requests to an engine's tokens and back.

    app         the Ray Serve deployment, and the process that runs it
    meter       what a server counts in Ray's metrics
    arguments   what to serve, typed
    http        routes, answers, error bodies, server-sent events
    service     a request to generations: prompt, limits, sampling
    protocol    the requests and the replies, typed
    generation  the queue, the engine's keeper, one request's progress
    text        tokenizer and chat template; stop texts; tokens back to text
    refusals    why a request gets no answer, with its HTTP status
    limits      how much one server takes on

A line imports from the lines below it, never from those above. Only ``app`` and ``meter`` import
Ray: a server without Ray answers in the unit tests.
"""
