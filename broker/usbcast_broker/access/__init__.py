"""Access control: which clients may connect, with which rights, and how much each connection may ask for."""
