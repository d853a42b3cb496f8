"""These tests run Triton's interpreter; it cannot share a process with compilation, so test_interpreter.py starts one."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
