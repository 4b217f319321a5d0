"""Taking a classifier elsewhere: other runtimes, folders to publish."""
