"""LeRobot data sets on disk: format, reader, writer, video, checks."""
