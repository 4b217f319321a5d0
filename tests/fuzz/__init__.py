"""Generated and damaged inputs; ``make fuzz`` runs the same generators for as long as it is told (docs/fuzzing.md).

Every generator draws from a ``random.Random``: of a number in the long run, of hypothesis in the tests.
"""
