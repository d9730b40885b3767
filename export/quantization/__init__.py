"""INT8: calibration, equalization, Q/DQ placement, the search for layers that stay float."""
