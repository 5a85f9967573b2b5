"""What is written down beside numbers: `metrics.json`, the command, the machine. Imports nothing of ours."""
