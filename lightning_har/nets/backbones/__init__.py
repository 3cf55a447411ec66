"""2D feature extractors: frames in, feature vectors or maps out."""
