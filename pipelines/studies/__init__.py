"""What VisionZip keeps: beside plainer ways, in the paper's three modes, and as evidence."""
