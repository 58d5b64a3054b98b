"""Models: what is predicted, learned, verified when its time has come, and replaced by proof."""
