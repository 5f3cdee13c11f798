"""Models: what there is, how to get it, frames to tokens, tokens to words."""
