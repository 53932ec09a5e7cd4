"""Export a pipe's model to torch.export and ONNX, compared with the pipe itself."""
