"""Images: decoding, preprocessing and resizing, in NumPy and Pillow."""
