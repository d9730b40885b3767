"""From detections and depth to tracked objects in the base frame."""
