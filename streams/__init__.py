"""The contract and the carrier: event types, the ten topics, the Faust app, and the transport over RabbitMQ
streams.
"""
