"""What a run leaves on disk and how it stops and goes on: folder, lock, checkpoints, logs, signals, random state."""
