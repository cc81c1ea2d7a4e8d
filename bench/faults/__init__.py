"""`./dev faults`: the whole system under load while a seeded nemesis breaks its parts; the judge believes only the client.

stack     servers, processes, and a fault proxy on every connection between them
load      customers and services, at a modest rate; log: what they were told
nemesis   which fault when, from the seed; kinds of faults in processes, network, database, broker, gateway
canary    when after a fault an event goes end to end again
judge     the client's log, the gateway's truth and a model of wallets, against the books; then the invariants
replay    every stream once more from its first record: nothing may change
report    figures as JSON and as a table
"""
