"""Trained models behind OpenAI's API, for `scripts/serve.py`. Start at `app`; `server` runs it.

A request goes down this list:

    guard        refuses what a web page of another origin could send
    app          the routes
    transport    bodies in, answers out
    requests     from JSON to checked values, or an error in OpenAI's shape
    generation   what a request computes, as steps: one forward pass each
    scheduler    the one thread that runs the steps of all requests in turn
    responses    from texts and tokens to OpenAI's JSON
"""
