"""What a trained encoder does: metrics, pictures of them, and speed and memory beside its peers.

Import from the modules: each pulls in only what it needs.
"""
