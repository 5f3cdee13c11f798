"""Ask questions of video."""
