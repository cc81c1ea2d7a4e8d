"""Live demo traffic through the real doors, and an independent judge of what came of it.

`traffic` pays and uses, sending some things twice on purpose, and keeps a log of what was acknowledged; `oracle`
compares that log, and the gateway's own truth, with the books; `report` prints and writes the figures.
"""
