"""TensorRT engines: build options, known faults, the build itself."""
