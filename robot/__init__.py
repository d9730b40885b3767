"""The robot: cameras, positions in space, tracks, policies, motion and the loop that joins them.

Frames: base (z up, x forward) at the arm's foot, tool at the flange, camera with x right, y down, z forward.
`T_base_camera` maps camera coordinates to base coordinates. Metres, radians, seconds on a monotonic clock.

One tick: camera -> Frame -> Detections -> ObjectPosition -> Track -> policy -> ActionChunk -> interpolation ->
safety gates -> arm.command -> recorder.
"""
