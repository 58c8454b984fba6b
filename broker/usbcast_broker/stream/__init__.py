"""One stream inside the node: from the transfers of a source to the batches in its ring."""
