"""Hosts that are namespaces, and links between them that lose, delay, throttle and break."""
