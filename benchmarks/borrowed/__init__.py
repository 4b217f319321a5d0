"""Ten minutes on a GPU that may not come back: ``python3 -m benchmarks.borrowed --out DIR --budget 540``.

Needs the standard library and torch. Whatever else a phase wants (NumPy, pytest, PyG, compute-sanitizer, ncu) is
optional: where it is missing the phase is skipped and says so. Nothing is installed. Every phase is a process of its
own with a budget, and every result is on the disk before the next is measured, so that a kill at any moment leaves
what was found.
"""
