"""Attacks on the running system, and what they came to (`./dev security`). The attacks are the tests' too.

`forgeries` at the webhooks' door, `tokens` at the others, `rbac` who may do what, `canaries` what leaks, `limiter` how often
somebody gets through, `pressure` what big, slow and compressed bodies cost, `payloads` what a text field may hold. `house`
is the system they are made on, `run` their order, `report` the figures and their bounds.
"""
