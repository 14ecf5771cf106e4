"""The OpenAI-compatible server: from HTTP requests to an engine's tokens and back.

    app         the Ray Serve deployment, and the process that runs it
    api         routes, errors and server-sent events
    answers     generated text as the replies of the protocol
    service     a request to generations: prompt, limits, sampling
    scheduler   who is served when; owns the engine
    generation  one request's progress, without input or output
    text        tokenizer, chat template; streamed text in stops and detokenize
    protocol    requests; replies in replies, refusals in refusals

Nothing below ``app`` knows of Ray.
"""
