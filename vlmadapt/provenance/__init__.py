"""What any experiment shares: its method's text, its identity, means, memory and versions."""
