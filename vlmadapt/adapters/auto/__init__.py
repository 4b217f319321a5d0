"""The method that is made of the others."""
