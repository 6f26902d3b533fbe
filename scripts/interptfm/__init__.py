"""interpTFM: mechanistic interpretability of transcriptomic foundation models on spatial data."""

__version__ = "0.1.0"
