"""handeye: camera pixels to robot action.

The packages `handeye.vision`, `handeye.robot`, `handeye.export` and `handeye.tools` are the repository's folders of
the same names, linked into this one.
"""

from pathlib import Path as _Path

if not (_Path(__file__).parent / "vision").is_dir():
    raise ImportError(
        f"{_Path(__file__).parent / 'vision'} is not a folder: this checkout was made without symbolic links. "
        "Check it out again with `git config core.symlinks true` (on Windows, switch on Developer Mode first)"
    )
