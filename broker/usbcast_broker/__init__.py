"""What serves: USB edge, framing, outlets, the node."""
