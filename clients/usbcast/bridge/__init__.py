"""A node whose feeds are subscriptions: the streams of other nodes, served again with a ring and a replay service of its own."""
