"""Ceilings of a machine, floors of the engine's parts, and how far the parts are from them."""
