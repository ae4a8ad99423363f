"""A judge on drawn shapes, before anything is spent: what it can do, what talks it round."""
