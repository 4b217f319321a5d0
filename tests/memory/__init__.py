"""What commands may hold in memory: docs/memory.md. Each runs in a process that has no more."""
