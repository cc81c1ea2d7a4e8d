"""One file per topic, named as the topic. Each takes batches in, commits them with their offset, and publishes what follows."""
