"""Private servers on loopback for a machine that has none installed, each a child of this process.

One file per server; `stack.py` starts what is not given by URL. Nothing here is used in production.
"""
