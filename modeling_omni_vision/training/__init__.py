"""Training on the transformers Trainer: arguments, callbacks, optimizer groups, metrics, the run."""
