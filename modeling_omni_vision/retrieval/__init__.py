"""Search: training and evaluation through sentence-transformers, bulk embedding, and an index of images."""
