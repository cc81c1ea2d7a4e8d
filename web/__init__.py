"""The HTTP edge on aiohttp: the API, the gateway's webhooks, health, metrics and the live page.

It commits rows and answers; it never talks to the broker. What follows from its rows is published by the
relay in the workers.
"""
