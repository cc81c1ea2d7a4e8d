"""A Cashfree to develop and test against: its API, its checkout page, its webhooks, its state machines
and its faults.

`book.py` is the merchant's state and its rules, without I/O; `clock.py` the time it lives in; `bodies.py`
the shapes it shows; `deliveries.py` sends webhooks; `faults.py` breaks things on request; `api.py`,
`checkout.py` and `control.py` are the three doors. `python -m gateway.simulator --port 8099` starts one.
"""
