"""Every tolerance the tests use, in one place, with why it is what it is."""

FEATURES_F32 = 1e-6  # compress against the loop oracle: sums of up to 256 float32 in another order
LOGITS_F32 = 1e-5  # our path against transformers' own forward, float32, small random model
PILLOW_LEVELS = 2  # preprocessing against Pillow, of 255: both round between two uint8 passes
PTS_S = 1e-6  # timestamps against the container's own, seconds
TOWER_ONNX = 1e-4  # mini's tower against its ONNX graph: 12 layers of float32, values up to 8
HARDWARE_LEVELS = 4  # mean of 255, a device's decoder against the processor's: each rounds its way
