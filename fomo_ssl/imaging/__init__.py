"""One scan in space: safe reading, orientation, resampling, intensity, foreground."""
