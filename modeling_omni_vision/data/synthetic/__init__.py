"""Images that we draw ourselves, with exact labels."""
