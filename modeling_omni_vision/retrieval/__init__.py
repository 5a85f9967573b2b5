"""Retrieval: losses and evaluation through sentence-transformers, an index of images, search results as images."""
