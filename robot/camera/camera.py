"""What every camera is to the rest of the program: a context that delivers the newest frame.

Cameras never sleep for the sake of a rate: whoever ticks the loop decides when to read, through the clock.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, runtime_checkable

from robot.types import Frame


@runtime_checkable
class Camera(Protocol):
    """A colour-and-depth camera. Entering opens the device, leaving closes it, also after an error.

    The constructor only stores its arguments. Every failure of the device is a `robot.errors.CameraError`.
    """

    def __enter__(self) -> Camera:
        """Open the device. Raises CameraError when it is absent, busy or delivers another image size than asked."""
        ...

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the device; safe to call twice."""
        ...

    def read(self) -> Frame:
        """The newest frame, never an older one kept in a queue.

        `Frame.stamp_s` is the time of exposure on the program's monotonic clock, not the time of this call; two reads
        within one exposure period may return the same frame, which the caller sees by its stamp. Raises CameraError
        when no frame arrives in time, when the device has gone, or outside of the `with` block.
        """
        ...
