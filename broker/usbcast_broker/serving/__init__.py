"""Serving: publish batches on PUB and answer requests on ROUTER."""
