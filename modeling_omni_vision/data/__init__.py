"""Where images come from: sources, drawn shapes, augmentation, batches."""
