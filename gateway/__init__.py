"""Everything that knows Cashfree's shapes: the client, the webhook signature, the webhook parser, the
simulator.

Start with `webhooks.py` (what comes in), `client.py` (what we ask), `entities.py` (what is answered).
Nothing here knows our tables or streams.
"""
