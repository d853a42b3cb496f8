"""Miniature data sets for tests: every format in its official layout, with the truth of every picture.

Each module writes one format with ``build(root, *, split, seed, size, ...) -> Truth``. The builders follow the
published descriptions of the formats alone and share no code with the readers, so that a misreading of a format cannot
hide in both.
"""
