"""What a model is worth on labelled data: metrics, calibration, robustness, the test split opened once."""
