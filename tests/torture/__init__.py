"""Commands that are killed, or whose disk fails, at a point of their work, and go on: docs/torture.md."""
