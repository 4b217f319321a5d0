"""The cases, a file a section."""
