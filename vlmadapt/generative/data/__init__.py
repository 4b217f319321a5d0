"""Pictures with questions, captions or hypotheses: readers of the field's files, and one front: load_records."""
