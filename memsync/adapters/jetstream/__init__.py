"""The bus: nats-py and JetStream. What was measured of them is in the design's jetstream.md."""
