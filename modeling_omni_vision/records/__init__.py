"""What is recorded beside numbers: `metrics.json`, the command, the machine, the weights. Imports nothing of ours."""
