"""Attention, similarity and occlusion maps, how far they are true, and their plots."""
