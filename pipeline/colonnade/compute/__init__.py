"""Computation of a network's Jacobian blocks, and of statistics over them."""
