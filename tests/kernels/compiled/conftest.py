"""These tests replace Triton's driver; test_compile_only.py starts each file, by its path, in a process of its own."""

collect_ignore_glob = ["test_*.py"]
