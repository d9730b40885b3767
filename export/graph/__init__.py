"""ONNX graphs: export from torch, NMS in the graph, float16, operators that TensorRT takes."""
