"""Triton's interpreter cannot share a process with compilation: test_interpreter.py starts one for these tests."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
