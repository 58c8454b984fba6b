"""Access control: who may connect, as what, and how much a connection may ask for."""
