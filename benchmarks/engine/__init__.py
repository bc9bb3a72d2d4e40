"""Seconds of one training step of mxd, of the obvious implementation and of the peers."""
