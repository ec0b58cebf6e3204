"""What is computed of a network: Jacobian blocks, and statistics of them."""
