"""Fixtures of the run time's tests."""

from __future__ import annotations

import sys
from pathlib import Path

# With importlib's import mode a test folder is no package; its model builder is found by this path.
sys.path.insert(0, str(Path(__file__).parent))
