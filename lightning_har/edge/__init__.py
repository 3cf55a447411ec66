"""Small devices: quantization, export, streaming, runtime."""
