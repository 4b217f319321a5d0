"""A saved classifier as a small page and a JSON endpoint on this computer."""
