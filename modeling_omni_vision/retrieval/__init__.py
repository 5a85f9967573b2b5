"""Search: encoding files, the index on disk, what it finds and what its shortcuts cost.

Import from the modules: each pulls in only what it needs.
"""
