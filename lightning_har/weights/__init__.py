"""Bytes to tensors: fetching, digests, file formats. No Lightning."""
