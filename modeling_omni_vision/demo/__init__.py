"""The page of `omni-vision demo`: what a checkpoint computes, drawn in a browser, each tab also an HTTP endpoint."""
