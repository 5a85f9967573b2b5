"""Where pictures come from: sources, drawn shapes, augmentation, batches."""
