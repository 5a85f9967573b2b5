"""Search: training and evaluation through sentence-transformers, and an index of pictures."""
